//! A database that cannot be used is moved aside, named in an alarm, and mining goes on with a new
//! one.

#[path = "support/kill.rs"]
mod kill;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kill::{Home, PATIENCE};
use sn17_miner::primitives::{Hotkey, LocalId, Prompt, Score, SourceId, TaskId, UnixTime};
use sn17_miner::store::{
    FeedbackFilter, FeedbackReader, LaneKey, LaneRecord, NewTask, Outcome, Settled, Store, StoreError,
};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const PAGE: usize = 4_096;

fn lane() -> LaneKey {
    LaneKey { source: SourceId::Validator(Hotkey::from_bytes([1; 32])), hotkey: Hotkey::from_bytes([9; 32]) }
}

fn record() -> LaneRecord {
    LaneRecord {
        cooldown_until: Some(NOW + Duration::from_secs(300)),
        clock_offset: Some(-7),
        window_count: Some(3),
    }
}

/// A data directory with a hundred settled tasks, and its database.
async fn used() -> (tempfile::TempDir, PathBuf) {
    filled(3_000).await
}

/// As [`used`], with prompts of so many bytes.
async fn filled(prompt: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    for number in 0..100 {
        let task = LocalId::new(NOW, number);
        let new = NewTask {
            id: task,
            lane: lane(),
            task_id: TaskId::new(&format!("t{number}")).unwrap(),
            prompt: Prompt::Text("x".repeat(prompt).into()),
            threshold: Score::new(0.6).unwrap(),
            throttle_s: 30,
            pulled_at: NOW,
        };
        store.accept(new).await.unwrap();
        let settled = Settled { task, outcome: Outcome::Accepted, reason: None, at: NOW, feedback: None };
        store.finish(settled, lane(), record()).await.unwrap();
    }
    std::fs::write(dir.path().join("results/of-the-old-one.spz"), b"x").unwrap();
    drop(store);
    let file = dir.path().join(Store::FILE);
    (dir, file)
}

/// The names beside the database that begin as it does.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name.starts_with("agent.sqlite.") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect();
    names.sort();
    names
}

/// Opens a directory whose database was damaged: it is moved aside as it was, the new one works, and
/// what lies beside it stays. Says what became of the lane.
async fn recovered(dir: &Path) -> LaneRecord {
    let file = dir.join(Store::FILE);
    let damaged = std::fs::read(&file).unwrap();
    let store = Store::open(dir).await.unwrap();
    let aside = store.recovered().expect("it is moved aside").to_owned();
    assert_eq!(aside.parent(), Some(dir));
    assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("agent.sqlite.corrupt-"));
    assert_eq!(std::fs::read(&aside).unwrap(), damaged, "not a byte of it is changed");
    assert!(dir.join("results/of-the-old-one.spz").exists());
    assert_eq!(store.prune(NOW - Duration::from_secs(86_400 * 365 * 3)).await.unwrap(), 0);

    let kept = store.lane(lane()).await.unwrap();
    store.set_lane(lane(), record()).await.unwrap();
    drop(store);
    let store = Store::open(dir).await.unwrap();
    assert_eq!(store.recovered(), None, "the new one is sound");
    assert_eq!(store.lane(lane()).await.unwrap(), record());
    kept
}

#[tokio::test]
async fn a_file_of_garbage() {
    let (dir, file) = used().await;
    let garbage: Vec<u8> =
        (0..PAGE as u32 * 8).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&file, garbage).unwrap();
    assert_eq!(recovered(dir.path()).await, LaneRecord::default());
}

#[tokio::test]
async fn a_truncated_file() {
    let (dir, file) = used().await;
    let length = std::fs::metadata(&file).unwrap().len();
    let cut = |to| std::fs::File::options().write(true).open(&file).unwrap().set_len(to).unwrap();
    cut(length / 2 / PAGE as u64 * PAGE as u64);
    recovered(dir.path()).await;
    cut(100);
    recovered(dir.path()).await;
    assert_eq!(names(dir.path()).len(), 2, "none overwrites another");
}

#[tokio::test]
async fn a_page_of_zeros_in_the_middle() {
    let (dir, file) = used().await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / PAGE * PAGE;
    bytes[middle..middle + PAGE].fill(0);
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(recovered(dir.path()).await, record(), "what is left of the lanes is taken over");
}

#[tokio::test]
async fn tables_of_another_program() {
    for (version, sql) in [(0, "CREATE TABLE notes (x)"), (1, "CREATE TABLE tasks (x)"), (-4, ""), (2, "")] {
        let (dir, file) = used().await;
        std::fs::remove_file(&file).unwrap();
        let other = rusqlite::Connection::open(&file).unwrap();
        other.execute_batch(sql).unwrap();
        other.pragma_update(None, "user_version", version).unwrap();
        drop(other);
        let store = Store::open(dir.path()).await.unwrap();
        assert!(store.recovered().is_some(), "version {version}: {sql}");
        assert_eq!(store.lane(lane()).await.unwrap(), LaneRecord::default());
    }
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let (dir, file) = used().await;
    std::fs::write(&file, b"").unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.recovered(), None);
    assert_eq!(store.lane(lane()).await.unwrap(), LaneRecord::default());
}

#[tokio::test]
async fn a_log_of_garbage_is_dropped() {
    let (dir, _) = used().await;
    std::fs::write(dir.path().join("agent.sqlite-wal"), vec![0x5a; PAGE * 3]).unwrap();
    std::fs::write(dir.path().join("agent.sqlite-shm"), vec![0xa5; PAGE * 8]).unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.recovered(), None);
    assert_eq!(store.lane(lane()).await.unwrap(), record());
}

#[tokio::test]
async fn a_directory_in_its_place_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(Store::FILE)).unwrap();
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(!error.is_corrupt() && !error.is_full());
    let said = error.to_string();
    assert!(said.contains("agent.sqlite") && said.contains("not a file"), "{said}");
}

#[tokio::test]
async fn the_log_goes_with_its_database() {
    let (dir, file) = used().await;
    // As after kill -9: the log is still there, and the database it belongs to breaks.
    let store = Store::open(dir.path()).await.unwrap();
    store.set_lane(lane(), record()).await.unwrap();
    let log = std::fs::read(dir.path().join("agent.sqlite-wal")).unwrap();
    drop(store);
    std::fs::write(dir.path().join("agent.sqlite-wal"), &log).unwrap();
    let garbage = vec![0x5a; PAGE * 8];
    std::fs::write(&file, &garbage).unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let aside = store.recovered().unwrap().display().to_string();
    assert_eq!(std::fs::read(format!("{aside}-wal")).unwrap(), log);
}

#[tokio::test]
async fn a_newer_or_a_locked_database_stays_where_it_is() {
    let (dir, file) = used().await;
    let other = rusqlite::Connection::open(&file).unwrap();
    other.pragma_update(None, "user_version", 999).unwrap();
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }) && !error.is_corrupt());
    other.pragma_update(None, "user_version", 1).unwrap();
    other.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(!error.is_corrupt() && error.to_string().contains("locked"), "{error}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

/// Overwrites every page but the first: what is read from now on is garbage.
fn break_behind_its_back(file: &Path) {
    use std::os::unix::fs::FileExt;
    let length = std::fs::metadata(file).unwrap().len();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&vec![0x5a; length as usize - PAGE], PAGE as u64).unwrap();
}

#[tokio::test]
async fn a_database_that_breaks_while_it_is_used_says_so() {
    // More than SQLite keeps in memory.
    let (dir, file) = filled(60_000).await;
    let store = Store::open(dir.path()).await.unwrap();
    let reader = FeedbackReader::open(dir.path(), FeedbackFilter::default()).await.unwrap();
    break_behind_its_back(&file);
    let error = store.lane(lane()).await.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    let error = reader.last(10).await.unwrap_err();
    assert!(error.is_corrupt() && error.to_string().contains("damaged"), "{error}");
}

#[tokio::test]
async fn the_agent_mines_on_after_an_alarm() {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    let file = home.data().join("agent.sqlite");
    std::fs::write(&file, "somebody's notes ".repeat(1_000)).unwrap();
    assert_readers_refuse(&home, "no database").await;

    let run = [
        "run",
        "--tasks",
        "1",
        "--set",
        "paths.data=data",
        "--set",
        "devnet.cooldown=1s",
        "--set",
        "devnet.penalty=1s",
    ];
    let mut agent = home.start(&run);
    let alarm = agent.line(&["alarm=\"store-corrupt\""], PATIENCE).await.expect("the alarm is told");
    let named = names(&home.data());
    assert!(alarm.contains("ERROR") && named.len() == 1 && alarm.contains(&named[0]), "{alarm}");
    assert!(agent.ended(PATIENCE).await.success());
    assert_eq!(home.tasks().len(), 1);
    assert!(!home.tasks()[0].is_open());

    break_behind_its_back(&file);
    assert_readers_refuse(&home, "damaged").await;
}

/// `feedback` and `status` say what is wrong with the database, and of which.
async fn assert_readers_refuse(home: &Home, why: &str) {
    for command in ["feedback", "status"] {
        let output = home.command(&[command, "--set", "paths.data=data"]).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{command}: {said}");
    }
}
