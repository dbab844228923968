//! What a disk without room does to the store: nothing that outlasts it.

use super::tests::{accept, kept, lane, new_task, score};
use super::*;
use crate::primitives::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_763_600_000);

fn pragma(store: &Store, name: &str) -> i64 {
    let writer = store.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

/// The database may have so many pages; SQLite then answers as if the disk were full.
fn limit(store: &Store, pages: i64) {
    let writer = store.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.connection.pragma_update(None, "max_page_count", pages).unwrap();
}

/// A task whose prompt needs pages of its own.
fn large(number: u128) -> NewTask {
    let prompt = crate::primitives::Prompt::Text("x".repeat(100_000).into());
    NewTask { prompt, ..new_task(lane(number as u8), "t", number) }
}

#[tokio::test]
async fn a_failed_transaction_leaves_the_store_as_it_was_and_usable() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    let result = kept(&store, task.id).await;
    limit(&store, pragma(&store, "page_count"));
    for _ in 0..3 {
        let error = store.accept(large(2)).await.unwrap_err();
        assert!(error.is_full() && !error.is_corrupt(), "{error}");
        assert!(store.open_task(lane(2)).await.unwrap().is_none());
    }
    // What needs no room goes on.
    let result = store.judge(task.id, &result, Verdict::Scored(score(0.7)), None).await.unwrap();
    let reason = Answer::Empty("x".repeat(100_000));
    let error = store.intend(task.id, &reason, NOW).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(store.open_task(lane(1)).await.unwrap().unwrap().stage, Stage::Scored);

    limit(&store, 1 << 20);
    store.accept(large(2)).await.unwrap();
    store.intend(task.id, &Answer::Result(result), NOW).await.unwrap();
    let found = store.open_task(lane(1)).await.unwrap().unwrap();
    assert_eq!(found.stage, Stage::Intended);
    assert!(store.open_task(lane(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn only_what_asks_for_it_waits_for_the_disk() {
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    limit(&store, pragma(&store, "page_count"));
    for _ in 0..2 {
        // A transaction that fails leaves no other mode to the next.
        store.intend(task.id, &Answer::Empty("x".repeat(100_000)), NOW).await.unwrap_err();
        assert_eq!(pragma(&store, "synchronous"), FULL);
        store.lane(lane(1)).await.unwrap();
        assert_eq!(pragma(&store, "synchronous"), NORMAL);
    }
    store
        .transaction(Durable::Synced, |_| -> Result<(), _> { panic!("in the middle of it") })
        .await
        .unwrap_err();
    store.lane(lane(1)).await.unwrap();
    assert_eq!(pragma(&store, "synchronous"), NORMAL);
}
