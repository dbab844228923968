//! A store that may write no more: it says so, leaves nothing half-written, and goes on once it may.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sn17_miner::primitives::{Hotkey, LocalId, Prompt, Score, Seed, SourceId, TaskId, UnixTime};
use sn17_miner::splat::{Gaussian, ShDegree, Splat, Spz, SpzEncoder};
use sn17_miner::store::{Accepted, LaneKey, Making, NewTask, Store, StoreError};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A file may be so large here.
const ROOM: u64 = 4_096;

fn spz(points: u16) -> Arc<Spz> {
    let mut splat = Splat::new(ShDegree::Zero);
    for point in 0..points {
        // Spread, so that it does not compress away.
        let at = |salt: u32| (u32::from(point).wrapping_mul(2_654_435_761).rotate_left(salt) % 9_973) as f32;
        splat.push(Gaussian {
            position: [at(3), at(7), at(13)],
            log_scale: [-4.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            logit_opacity: 0.0,
            f_dc: [at(17), at(19), at(23)],
        });
    }
    Arc::new(SpzEncoder::default().encode(&splat).unwrap())
}

fn making(attempt: u32) -> Making {
    Making {
        attempt,
        seed: Seed::new(attempt),
        worker: "main".into(),
        generation: Duration::from_secs(1),
        queue: Duration::ZERO,
        handoff: Duration::ZERO,
        first_byte: Duration::ZERO,
        encoding: Duration::ZERO,
        at: NOW,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("results")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sets how large this process may make a file.
fn allow(size: &str) {
    let arguments = ["--pid", &std::process::id().to_string(), &format!("--fsize={size}:")];
    assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
}

/// In a process of its own, because a limit is of the whole process; the shell has the signal ignored
/// that would end it.
#[test]
fn what_does_not_fit_leaves_nothing_behind() {
    let ignoring = r#"trap "" XFSZ; exec "$0" "$@""#;
    let this = std::env::current_exe().unwrap();
    let child = Command::new("sh")
        .args(["-c", ignoring])
        .arg(this)
        .args(["--ignored", "--exact", "in_a_process_that_may_write_no_more", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by what_does_not_fit_leaves_nothing_behind, in a process of its own"]
async fn in_a_process_that_may_write_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let lane = LaneKey {
        source: SourceId::Validator(Hotkey::from_bytes([1; 32])),
        hotkey: Hotkey::from_bytes([9; 32]),
    };
    let new = NewTask {
        id: LocalId::new(NOW, 1),
        lane,
        task_id: TaskId::new("t").unwrap(),
        prompt: Prompt::Text("a red cube".into()),
        threshold: Score::new(0.6).unwrap(),
        throttle_s: 30,
        pulled_at: NOW,
    };
    let Accepted::New(task) = store.accept(new).await.unwrap() else { panic!("it is new") };
    let attempt = store.begin_attempt(task.id).await.unwrap();
    let result = spz(2_000);
    assert!(result.as_bytes().len() as u64 > 2 * ROOM, "{}", result.as_bytes().len());

    allow(&ROOM.to_string());
    for _ in 0..2 {
        // The file, and then what has a small file but a row.
        for candidate in [&result, &spz(4)] {
            let error = store.keep(task.id, making(attempt), Arc::clone(candidate)).await.unwrap_err();
            assert!(error.is_full() && !error.is_corrupt(), "{error}");
            let left = names(dir.path());
            assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        }
        assert!(matches!(
            store.begin_attempt(task.id).await,
            Err(error @ StoreError::Database(_)) if error.is_full()
        ));
    }

    allow("unlimited");
    let kept = store.keep(task.id, making(attempt), Arc::clone(&result)).await.unwrap();
    assert_eq!(kept.spz.as_bytes(), result.as_bytes());
    assert_eq!(names(dir.path()), [format!("{}-1.spz", task.id)]);
    drop(store);
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.recovered(), None);
    let open = store.open_task(lane).await.unwrap().unwrap();
    assert_eq!(open.result.unwrap().spz.as_bytes(), result.as_bytes());
    assert_eq!(open.task.attempts, attempt);
}
