//! A memory of version 2, written by the program of then, is brought up to date and keeps everything.

use std::path::Path;
use std::time::Duration;

use sn17_miner::primitives::{Hotkey, Netuid, SourceId, UnixTime};
use sn17_miner::store::{
    FeedbackFilter, FeedbackReader, LaneKey, Remembered, Slow, Stage, Stats, Store, Tally,
};

/// When the first of its tasks was about to be pulled.
const T: UnixTime = UnixTime::from_secs(1_763_600_000);

const DAY: u64 = 86_400;

fn lane(validator: u8, hotkey: u8) -> LaneKey {
    LaneKey {
        source: SourceId::Validator(Hotkey::from_bytes([validator; 32])),
        hotkey: Hotkey::from_bytes([hotkey; 32]),
    }
}

fn at(seconds: u64) -> UnixTime {
    T + Duration::from_secs(seconds)
}

/// A copy of tests/data/store-v2, with the one result that is still needed.
fn of_version_2() -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-v2");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("results")).unwrap();
    for file in ["agent.sqlite", "results/01KDRYA8000000000000000009-1.spz"] {
        std::fs::copy(golden.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[tokio::test]
async fn what_ended_before_is_counted() {
    let dir = of_version_2();
    drop(Store::open(dir.path()).await.unwrap());
    let now = at(50 * DAY);
    let stats = Stats::read(dir.path(), None, now).await.unwrap();
    assert_eq!((stats.from, stats.until), (at(10), now));
    let of = |lane: LaneKey| {
        let found = stats.lanes.iter().find(|(key, _)| *key == lane);
        found.map(|(_, tally)| tally.clone()).unwrap()
    };
    assert_eq!(stats.lanes.len(), 3);

    let first = of(lane(1, 9));
    let counts = |t: &Tally| [t.accepted, t.low, t.scorer_failed, t.empty, t.settled, t.lost];
    assert_eq!(counts(&first), [2, 1, 0, 0, 0, 0]);
    assert_eq!((first.generations, first.made), (4, 3));
    // One of 35 s, and two that together took 40.
    assert_eq!(first.slow, Slow { generator: 1, retries: 1, ..Slow::default() });
    assert_eq!((first.passed_here, first.rejected_there, first.compared), (3, 1, 2));
    assert!((first.local_sum - 1.45).abs() < 1e-9 && (first.remote_sum - 1.48).abs() < 1e-9);
    let latest = first.latest.unwrap();
    assert_eq!((latest.at, latest.window_count, latest.duel_rating), (at(4_050), 3, 1503.0));
    assert_eq!((first.times.generation.count(), first.times.generation.max()), (4, Some(35_000)));
    // Not measured then.
    assert_eq!((first.times.queue.count(), first.times.upload.count()), (0, 0));

    let second = of(lane(2, 9));
    assert_eq!(counts(&second), [0, 0, 1, 1, 1, 0]);
    assert_eq!((second.generations, second.made, second.slow), (4, 3, Slow::default()));
    let third = of(lane(1, 8));
    assert_eq!(counts(&third), [1, 0, 0, 0, 0, 1]);
    assert_eq!((third.compared, third.score_sum, third.made), (0, 0.75, 1));

    let later = Stats::read(dir.path(), Some(at(390)), now).await.unwrap();
    assert_eq!(later.lanes.iter().map(|(_, tally)| tally.accepted).sum::<u64>(), 2);
}

#[tokio::test]
async fn the_open_task_and_the_replies_are_still_there() {
    let dir = of_version_2();
    // Shown as it is, before an agent of today has opened it.
    let remembered = Remembered::read(dir.path(), "devnet", Netuid(17)).await.unwrap();
    let open = remembered.lanes.iter().find_map(|lane| lane.task.clone()).unwrap();
    assert_eq!((open.stage, open.decision), (Stage::Kept, None));

    let store = Store::open(dir.path()).await.unwrap();
    let open = store.open_task(lane(1, 8)).await.unwrap().unwrap();
    assert_eq!(open.stage, Stage::Kept);
    assert!(open.result.is_some(), "its file is read back and checked");
    assert_eq!(
        store.recent_durations(3).await.unwrap().makings["main"][0].generation,
        Duration::from_secs(7)
    );
    assert_eq!(store.recent_durations(3).await.unwrap().makings["main"][0].queue, None);
    assert_eq!(store.accepted_since(None, T).await.unwrap()[&lane(1, 9)], [at(60), at(4_050)]);
    assert_eq!(store.calibration_pairs(9, T).await.unwrap().len(), 3);
    let replies = FeedbackReader::open(dir.path(), FeedbackFilter::default()).await.unwrap();
    assert_eq!(replies.last(100).await.unwrap().len(), 6);
}
