use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::*;
use crate::primitives::{Hotkey, LocalId, Prompt, Score, Seed, SourceId, TaskId, UnixTime};
use crate::splat::{Gaussian, ShDegree, Splat, Spz, SpzEncoder};

pub(super) const NOW: UnixTime = UnixTime::from_secs(1_763_600_000);

pub(super) fn lane(number: u8) -> LaneKey {
    LaneKey {
        source: SourceId::Validator(Hotkey::from_bytes([number; 32])),
        hotkey: Hotkey::from_bytes([99; 32]),
    }
}

/// A result whose bytes differ from those of every other `number`.
pub(super) fn spz(number: u32) -> Arc<Spz> {
    let mut splat = Splat::new(ShDegree::Zero);
    for point in 0..4 {
        splat.push(Gaussian {
            position: [number as f32, point as f32, 0.0],
            log_scale: [-4.0; 3],
            rotation: [1.0, 0.0, 0.0, 0.0],
            logit_opacity: 0.0,
            f_dc: [0.0; 3],
        });
    }
    Arc::new(SpzEncoder::default().encode(&splat).unwrap())
}

pub(super) fn new_task(lane: LaneKey, task_id: &str, number: u128) -> NewTask {
    NewTask {
        id: LocalId::new(NOW, number),
        lane,
        task_id: TaskId::new(task_id).unwrap(),
        prompt: Prompt::Text("a red cube".into()),
        threshold: Score::new(0.6).unwrap(),
        throttle_s: 30,
        pulled_at: NOW,
    }
}

pub(super) fn making(attempt: u32) -> Making {
    Making {
        attempt,
        seed: Seed::new(attempt),
        worker: "main".into(),
        queue: Duration::from_millis(20),
        handoff: Duration::from_millis(30),
        first_byte: Duration::from_millis(900),
        generation: Duration::from_secs(1),
        encoding: Duration::from_millis(50),
        at: NOW,
    }
}

pub(super) fn settled(task: LocalId, outcome: Outcome) -> Settled {
    Settled { task, outcome, reason: None, at: NOW, feedback: None }
}

pub(super) fn score(value: f64) -> Score {
    Score::new(value).unwrap()
}

pub(super) async fn accept(store: &Store, new: NewTask) -> TaskRecord {
    match store.accept(new).await.unwrap() {
        Accepted::New(task) => task,
        Accepted::Known(open) => panic!("known: {open:?}"),
    }
}

pub(super) async fn kept(store: &Store, task: LocalId) -> KeptResult {
    let attempt = store.begin_attempt(task).await.unwrap();
    store.keep(task, making(attempt), spz(attempt)).await.unwrap()
}

async fn reopened(store: Store) -> Store {
    let dir = store.dir().to_owned();
    drop(store);
    Store::open(&dir).await.unwrap()
}

async fn open(store: &Store) -> OpenTask {
    store.open_task(lane(1)).await.unwrap().expect("a task is open")
}

fn column(store: &Store, sql: &str) -> Vec<String> {
    let connection = Connection::open(store.dir().join(Store::FILE)).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn each_stage_is_found_again_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert!(store.open_task(lane(1)).await.unwrap().is_none());
    let task = accept(&store, new_task(lane(1), "t", 1)).await;

    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!((found.stage, found.task.attempts), (Stage::Accepted, 0));
    assert_eq!((found.task.id, &found.task.prompt), (task.id, &task.prompt));
    assert_eq!((found.task.threshold, found.task.throttle_s, found.task.pulled_at), (score(0.6), 30, NOW));

    assert_eq!(store.begin_attempt(task.id).await.unwrap(), 1);
    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!((found.stage, found.task.attempts), (Stage::Generating, 1));

    let result = store.keep(task.id, making(1), spz(1)).await.unwrap();
    store.sync(task.id, 1).await.unwrap();
    let store = reopened(store).await;
    let found = open(&store).await;
    let read = found.result.unwrap();
    assert_eq!((found.stage, read.verdict, read.seed), (Stage::Kept, None, Seed::new(1)));
    assert_eq!(read.spz.as_bytes(), spz(1).as_bytes());

    let verdict = Verdict::Scored(score(0.71));
    let result = store.judge(task.id, &result, verdict, None).await.unwrap();
    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!((found.stage, found.result.unwrap().verdict), (Stage::Scored, Some(verdict)));

    let submission = store.intend(task.id, &Answer::Result(result), NOW).await.unwrap();
    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!(found.stage, Stage::Intended);
    let Some((Answer::Result(answer), NOW)) = found.answer else { panic!("{:?}", found.answer) };
    assert_eq!((answer.spz.as_bytes(), answer.verdict), (spz(1).as_bytes(), Some(verdict)));

    store.sent(task.id, submission, "timeout".into()).await.unwrap();
    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!(found.stage, Stage::Sent);
    assert!(matches!(found.answer, Some((Answer::Result(_), NOW))));
    assert_eq!(column(&store, "SELECT error FROM submissions"), ["timeout"]);

    let record = LaneRecord { cooldown_until: Some(NOW), clock_offset: Some(-5), window_count: Some(3) };
    store.finish(settled(task.id, Outcome::Accepted), lane(1), record).await.unwrap();
    let store = reopened(store).await;
    assert!(store.open_task(lane(1)).await.unwrap().is_none());
    assert_eq!(store.lane(lane(1)).await.unwrap(), record);
    assert_eq!(column(&store, "SELECT stage FROM tasks"), ["booked"]);
}

#[tokio::test]
async fn the_best_of_several_results_outlives_the_making_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    for value in [0.7, 0.9, 0.3, 0.8] {
        let result = kept(&store, task.id).await;
        store.judge(task.id, &result, Verdict::Scored(score(value)), None).await.unwrap();
    }
    store.begin_attempt(task.id).await.unwrap();
    let found = open(&reopened(store).await).await;
    let best = found.result.unwrap();
    assert_eq!(
        (found.stage, best.attempt, best.verdict),
        (Stage::Scored, 2, Some(Verdict::Scored(score(0.9))))
    );
}

#[tokio::test]
async fn an_empty_answer_is_found_again_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    store.intend(task.id, &Answer::Empty("too long".into()), NOW).await.unwrap();
    let store = reopened(store).await;
    let found = open(&store).await;
    assert_eq!(found.stage, Stage::Intended);
    let Some((Answer::Empty(reason), NOW)) = found.answer else { panic!("{:?}", found.answer) };
    assert_eq!(reason, "too long");
    store.finish(settled(task.id, Outcome::Empty), lane(1), LaneRecord::default()).await.unwrap();
    assert_eq!(column(&store, "SELECT stage || ':' || reason FROM tasks"), ["declined:too long"]);
}

#[tokio::test]
async fn the_task_given_again_is_known_and_another_one_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let first = accept(&store, new_task(lane(1), "t", 1)).await;
    kept(&store, first.id).await;

    let again = store.accept(new_task(lane(1), "t", 2)).await.unwrap();
    let Accepted::Known(again) = again else { panic!("{again:?}") };
    assert_eq!((again.task.id, again.stage), (first.id, Stage::Kept));

    // The id alone does not make it the same task: the submission is signed over the prompt.
    let prompt = Prompt::Text("a blue cube".into());
    let changed = accept(&store, NewTask { prompt, ..new_task(lane(1), "t", 3) }).await;
    let other = accept(&store, new_task(lane(1), "u", 4)).await;
    assert_eq!(open(&store).await.task.id, other.id);
    assert_eq!(
        column(&store, "SELECT id FROM tasks WHERE outcome = 'lost' ORDER BY id"),
        [first.id.to_string(), changed.id.to_string()]
    );

    // Another lane has nothing to do with it.
    accept(&store, new_task(lane(2), "t", 5)).await;
    assert_eq!(open(&store).await.task.id, other.id);
}

#[tokio::test]
async fn a_settled_task_changes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    let result = kept(&store, task.id).await;
    let finish = |outcome| store.finish(settled(task.id, outcome), lane(1), LaneRecord::default());
    finish(Outcome::Accepted).await.unwrap();

    let answer = Answer::Result(result.clone());
    assert!(matches!(store.begin_attempt(task.id).await, Err(StoreError::NoSuchTask(_))));
    assert!(matches!(store.keep(task.id, making(2), spz(2)).await, Err(StoreError::NoSuchTask(_))));
    assert!(matches!(
        store.judge(task.id, &result, Verdict::Unscored, None).await,
        Err(StoreError::NoSuchTask(_))
    ));
    assert!(matches!(store.intend(task.id, &answer, NOW).await, Err(StoreError::NoSuchTask(_))));
    assert!(matches!(store.sent(task.id, 1, "x".into()).await, Err(StoreError::NoSuchTask(_))));
    assert!(matches!(finish(Outcome::Lost).await, Err(StoreError::NoSuchTask(_))));
    assert_eq!(column(&store, "SELECT outcome FROM tasks"), ["accepted"]);
}

type Damage = fn(&Path);

const DAMAGES: [Damage; 3] = [
    |file| std::fs::remove_file(file).unwrap(),
    |file| std::fs::write(file, b"").unwrap(),
    |file| {
        let mut bytes = std::fs::read(file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(file, bytes).unwrap();
    },
];

#[tokio::test]
async fn a_damaged_result_is_made_again() {
    for damage in DAMAGES {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let task = accept(&store, new_task(lane(1), "t", 1)).await;
        let result = kept(&store, task.id).await;
        store.judge(task.id, &result, Verdict::Unscored, None).await.unwrap();
        damage(&store.results_dir().join(format!("{}-1.spz", task.id)));

        let store = reopened(store).await;
        let found = open(&store).await;
        assert_eq!(found.stage, Stage::Accepted);
        assert!(found.result.is_none() && found.answer.is_none());
        let result = kept(&store, task.id).await;
        assert_eq!(result.attempt, 2);
        let found = open(&store).await;
        assert_eq!((found.stage, found.result.unwrap().attempt), (Stage::Kept, 2));
    }
}

#[tokio::test]
async fn a_result_damaged_after_it_may_have_left_is_settled_by_an_empty_answer() {
    for damage in DAMAGES {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let task = accept(&store, new_task(lane(1), "t", 1)).await;
        let result = kept(&store, task.id).await;
        let result = store.judge(task.id, &result, Verdict::Unscored, None).await.unwrap();
        store.intend(task.id, &Answer::Result(result), NOW).await.unwrap();
        damage(&store.results_dir().join(format!("{}-1.spz", task.id)));

        let found = open(&reopened(store).await).await;
        assert_eq!(found.stage, Stage::Intended);
        let (answer, at) = found.answer.unwrap();
        assert!(matches!(answer, Answer::Empty(reason) if reason.contains("damaged")));
        assert_eq!(at, NOW);
    }
}

#[tokio::test]
async fn a_result_cut_off_before_its_row_is_made_again_under_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let task = accept(&store, new_task(lane(1), "t", 1)).await;
    store.begin_attempt(task.id).await.unwrap();
    let results = store.results_dir();
    std::fs::write(results.join(format!("{}-1.spz", task.id)), b"whole, but nobody knows it").unwrap();
    std::fs::write(results.join(format!("{}-2.spz.tmp", task.id)), b"half").unwrap();
    aged(&results.join(format!("{}-1.spz", task.id)), NOW - Duration::from_secs(1));

    let store = reopened(store).await;
    assert_eq!(open(&store).await.stage, Stage::Generating);
    assert_eq!(kept(&store, task.id).await.attempt, 2);
    assert_eq!(store.prune(NOW).await.unwrap(), 1);
    assert_eq!(open(&store).await.result.unwrap().spz.as_bytes(), spz(2).as_bytes());
}

/// Makes a file look as if it was last written then.
fn aged(file: &Path, at: UnixTime) {
    std::fs::File::options().write(true).open(file).unwrap().set_modified(at.to_system()).unwrap();
}

#[tokio::test]
async fn pruning_removes_old_results_and_strangers_and_nothing_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let mut files = Vec::new();
    for number in 1..=3 {
        let task = accept(&store, new_task(lane(number), "t", number.into())).await;
        kept(&store, task.id).await;
        files.push(store.results_dir().join(format!("{}-1.spz", task.id)));
        if number < 3 {
            let at = NOW + Duration::from_secs(number.into());
            let settled = Settled { at, ..settled(task.id, Outcome::Accepted) };
            store.finish(settled, lane(number), LaneRecord::default()).await.unwrap();
        }
    }
    let stranger = store.results_dir().join("of-nobody.spz");
    let notes = store.results_dir().join("notes.txt");
    std::fs::write(&stranger, b"x").unwrap();
    std::fs::write(&notes, b"x").unwrap();
    aged(&notes, NOW);

    aged(&stranger, NOW + Duration::from_secs(2));
    assert_eq!(store.prune(NOW + Duration::from_secs(1)).await.unwrap(), 0);
    aged(&stranger, NOW + Duration::from_secs(1));
    assert_eq!(store.prune(NOW + Duration::from_secs(2)).await.unwrap(), 2);
    assert!(!files[0].exists() && !stranger.exists());
    assert!(files[1].exists() && files[2].exists() && notes.exists());
    assert_eq!(store.prune(NOW + Duration::from_secs(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn of_ten_that_accept_at_once_one_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let mut accepting = JoinSet::new();
    for number in 0..10 {
        let store = store.clone();
        accepting.spawn(async move { store.accept(new_task(lane(1), "t", number)).await.unwrap() });
    }
    let accepted = accepting.join_all().await;
    assert_eq!(accepted.iter().filter(|a| matches!(a, Accepted::New(_))).count(), 1);

    let mut replacing = JoinSet::new();
    for number in 10..20 {
        let store = store.clone();
        let new = new_task(lane(1), &format!("t{number}"), number);
        replacing.spawn(async move { store.accept(new).await.unwrap() });
    }
    replacing.join_all().await;
    assert_eq!(column(&store, "SELECT task_id FROM tasks WHERE settled_at IS NULL").len(), 1);
    assert_eq!(column(&store, "SELECT task_id FROM tasks WHERE outcome = 'lost'").len(), 10);
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(Store::FILE);
    std::fs::write(&file, b"").unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.recovered(), None);
    accept(&store, new_task(lane(1), "t", 1)).await;
}

#[tokio::test]
async fn a_canary_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    assert!(store.canary("judge").await.unwrap().is_none());
    for number in 1..=2 {
        let prompt = Prompt::Image("iVBO".into());
        let canary = Canary { prompt, spz: spz(number), score: score(0.5 + f64::from(number) / 10.0) };
        store.set_canary("judge", canary).await.unwrap();
    }
    let store = reopened(store).await;
    let canary = store.canary("judge").await.unwrap().unwrap();
    assert_eq!((canary.spz.as_bytes(), canary.score), (spz(2).as_bytes(), score(0.7)));
    assert_eq!(canary.prompt, Prompt::Image("iVBO".into()));
    assert!(store.canary("other").await.unwrap().is_none());
}

/// What the store should remember of a lane.
#[derive(Debug, Clone, Default)]
struct Model {
    open: Option<Expected>,
    lane: LaneRecord,
}

#[derive(Debug, Clone)]
struct Expected {
    task: TaskRecord,
    stage: Stage,
    attempts: u32,
    result: Option<KeptResult>,
    answer: Option<(Answer, UnixTime)>,
    submission: i64,
}

impl Model {
    fn assert_is(&self, found: Option<&OpenTask>, record: LaneRecord) {
        assert_eq!(record, self.lane);
        let (expected, found) = match (&self.open, found) {
            (None, None) => return,
            (Some(expected), Some(found)) => (expected, found),
            (expected, found) => panic!("expected {expected:?}, found {found:?}"),
        };
        assert_eq!((found.task.id, &found.task.task_id), (expected.task.id, &expected.task.task_id));
        assert_eq!((found.stage, found.task.attempts), (expected.stage, expected.attempts));
        let bytes = |kept: &KeptResult| (kept.attempt, kept.verdict, kept.spz.as_bytes().to_vec());
        assert_eq!(found.result.as_ref().map(bytes), expected.result.as_ref().map(bytes));
        let said = |(answer, at): &(Answer, UnixTime)| match answer {
            Answer::Result(kept) => (Some(bytes(kept)), String::new(), *at),
            Answer::Empty(reason) => (None, reason.clone(), *at),
        };
        assert_eq!(found.answer.as_ref().map(said), expected.answer.as_ref().map(said));
    }
}

/// One random step that the state of the lane allows, on the store and on the model.
async fn random_step(store: &Store, key: LaneKey, model: &mut Model, rng: &mut StdRng, number: u32) {
    let at = NOW + Duration::from_secs(number.into());
    let Some(open) = &mut model.open else {
        let task = accept(store, new_task(key, &format!("t{number}"), number.into())).await;
        model.open = Some(Expected {
            task,
            stage: Stage::Accepted,
            attempts: 0,
            result: None,
            answer: None,
            submission: 0,
        });
        return;
    };
    let id = open.task.id;
    match rng.random_range(0..8) {
        0 => {
            let again = store.accept(new_task(key, open.task.task_id.as_str(), 0)).await.unwrap();
            assert!(matches!(again, Accepted::Known(found) if found.task.id == id));
        }
        1 => {
            let task = accept(store, new_task(key, &format!("t{number}"), number.into())).await;
            let fresh = Expected {
                stage: Stage::Accepted,
                attempts: 0,
                result: None,
                answer: None,
                task,
                submission: 0,
            };
            model.open = Some(fresh);
        }
        2 => {
            let outcome = *[Outcome::Accepted, Outcome::Empty, Outcome::Settled].choose(rng).unwrap();
            model.lane = LaneRecord {
                cooldown_until: Some(at),
                clock_offset: Some(i64::from(number)),
                window_count: Some(number.into()),
            };
            store.finish(settled(id, outcome), key, model.lane).await.unwrap();
            model.open = None;
        }
        3 if matches!(open.stage, Stage::Intended | Stage::Accepted) => {
            let answer = Answer::Empty(format!("reason {number}"));
            open.submission = store.intend(id, &answer, at).await.unwrap();
            (open.stage, open.answer) = (Stage::Intended, Some((answer, at)));
        }
        _ => match open.stage {
            Stage::Accepted => {
                open.attempts = store.begin_attempt(id).await.unwrap();
                open.stage = Stage::Generating;
            }
            Stage::Generating => {
                let kept = store.keep(id, making(open.attempts), spz(number)).await.unwrap();
                (open.stage, open.result) = (Stage::Kept, Some(kept));
            }
            Stage::Kept => {
                let verdict = *[Verdict::Scored(score(0.3)), Verdict::NoVerdict, Verdict::Unscored]
                    .choose(rng)
                    .unwrap();
                let kept = open.result.take().unwrap();
                open.result = Some(store.judge(id, &kept, verdict, None).await.unwrap());
                open.stage = Stage::Scored;
            }
            Stage::Scored if rng.random_bool(0.3) => {
                open.attempts = store.begin_attempt(id).await.unwrap();
                open.stage = Stage::Generating;
            }
            Stage::Scored | Stage::Sent => {
                let answer = open.answer.clone().map(|(answer, _)| answer);
                let answer = answer.unwrap_or_else(|| Answer::Result(open.result.clone().unwrap()));
                open.submission = store.intend(id, &answer, at).await.unwrap();
                (open.stage, open.answer) = (Stage::Intended, Some((answer, at)));
            }
            Stage::Intended => {
                store.sent(id, open.submission, "no answer".into()).await.unwrap();
                open.stage = Stage::Sent;
            }
            Stage::Booked | Stage::Declined => unreachable!("such a task is not open"),
        },
    }
}

#[tokio::test]
async fn after_any_steps_a_reopened_store_is_what_a_model_in_memory_is() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).await.unwrap();
        let mut models = [Model::default(), Model::default()];
        for number in 1..=60 {
            let which = rng.random_range(0..2_usize);
            let key = lane(which as u8 + 1);
            random_step(&store, key, &mut models[which], &mut rng, number).await;
            store = reopened(store).await;
            for (model, number) in models.iter().zip(1..) {
                let found = store.open_task(lane(number)).await.unwrap();
                let record = store.lane(lane(number)).await.unwrap();
                model.assert_is(found.as_ref(), record);
            }
        }
    }
}
