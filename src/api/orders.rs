//! What a person has done to the workers of a card.
//!
//! An order goes to the arbiter of its card, waits for its turn there and is proven like every other
//! step. It may take minutes, so it is given and then asked about: whoever gave it can leave, and it is
//! carried out all the same. What happens meanwhile is told in lines, as the card shows itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::workers::WorkersStatus;
use crate::clock::Clock;
use crate::gpu::{self, CardView, WorkerId, WorkerState};
use crate::mining::{Bench, Rehearsal, SeedSource, rehearse};
use crate::primitives::{MiB, Prompt, UnixTime, Untrusted};
use crate::store::Store;

/// Orders remembered after their end.
const KEPT: usize = 32;

/// Orders under way; each waits for a card, so more would only wait.
const AT_ONCE: usize = 8;

/// Rounds of one hand-off test.
pub const MOST_ROUNDS: u32 = 1_000;

/// Lines of one order; later ones replace nothing and are left out.
const LINES: usize = 4 * MOST_ROUNDS as usize;

/// What is made in a hand-off test.
const REHEARSED: &str = "a red cube";

/// What can be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Errand {
    Load {
        worker: String,
    },
    Unload {
        worker: String,
    },
    /// Of one worker, or of all that can.
    Cleanup {
        worker: Option<String>,
    },
    Start {
        worker: String,
    },
    Stop {
        worker: String,
    },
    Restart {
        worker: String,
    },
    /// Rounds of others out, generation, back, scoring, on every card.
    HandoffTest {
        rounds: u32,
    },
}

/// An order and what has come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderStatus {
    pub id: u64,
    pub errand: Errand,
    pub given_at: UnixTime,
    pub state: OrderState,
    /// What has happened, in order.
    pub lines: Vec<String>,
    /// Of a hand-off test.
    pub rounds: Vec<Round>,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum OrderState {
    UnderWay,
    Done,
    Failed { why: String },
}

/// One round of a hand-off test; times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub card: String,
    pub number: u32,
    pub waited_s: f64,
    pub unload_s: f64,
    pub generate_s: f64,
    /// The scorer back, its canary, and the score.
    pub score_s: f64,
    pub score: Option<f64>,
    /// Least free memory that the card showed during the round; nothing if nothing measures it.
    pub least_free_mib: Option<MiB>,
    /// Others were moved out and back.
    pub swapped: bool,
}

/// An order that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("no worker {name} here; there are: {known}")]
    NoSuchWorker { name: String, known: String },
    #[error("{AT_ONCE} orders are under way; wait for one of them")]
    TooMany,
    #[error("a test has 1 to {MOST_ROUNDS} rounds")]
    Rounds,
    #[error("no worker here can be told to give cached memory back")]
    NothingToClean,
}

/// Takes orders for the cards of an agent. Clones share them; what is under way ends with the last.
#[derive(Debug, Clone)]
pub struct Orders {
    benches: Arc<[Bench]>,
    clock: Clock,
    seeds: SeedSource,
    /// Keeps the canaries; without it a test has none.
    store: Option<Store>,
    book: Arc<Mutex<Book>>,
    work: Arc<Mutex<JoinSet<()>>>,
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    orders: VecDeque<OrderStatus>,
}

impl Orders {
    pub fn new(benches: Vec<Bench>, clock: Clock, seeds: SeedSource, store: Option<Store>) -> Self {
        Self { benches: benches.into(), clock, seeds, store, book: Arc::default(), work: Arc::default() }
    }

    /// The cards as they last showed themselves.
    pub fn workers(&self) -> WorkersStatus {
        WorkersStatus::of(self.benches.iter(), self.clock.now())
    }

    /// Gives an order and returns at once, with its number.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn give(&self, errand: Errand) -> Result<u64, OrderError> {
        let steps = self.steps(&errand)?;
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        while work.try_join_next().is_some() {}
        if work.len() >= AT_ONCE {
            return Err(OrderError::TooMany);
        }
        let id = {
            let mut book = lock(&self.book);
            book.last += 1;
            let id = book.last;
            book.orders.push_back(OrderStatus {
                id,
                errand,
                given_at: self.clock.now(),
                state: OrderState::UnderWay,
                lines: Vec::new(),
                rounds: Vec::new(),
            });
            if let Some(oldest) = book.orders.iter().position(|order| order.state != OrderState::UnderWay)
                && book.orders.len() > KEPT
            {
                book.orders.remove(oldest);
            }
            id
        };
        let page = Page { book: Arc::clone(&self.book), id };
        work.spawn(carry_out(steps, page, self.clock, self.seeds.clone(), self.store.clone()));
        Ok(id)
    }

    /// How far an order is; `None` if it is not known, or no longer.
    pub fn look(&self, id: u64) -> Option<OrderStatus> {
        lock(&self.book).orders.iter().find(|order| order.id == id).cloned()
    }

    fn steps(&self, errand: &Errand) -> Result<Vec<(Bench, Deed)>, OrderError> {
        let one = |name: &str, order: fn(WorkerId) -> gpu::Order| -> Result<_, OrderError> {
            let bench = self.bench_of(name)?;
            Ok(vec![(bench, Deed::Order(order(name.into())))])
        };
        match errand {
            Errand::Load { worker } => one(worker, gpu::Order::Load),
            Errand::Unload { worker } => one(worker, gpu::Order::Unload),
            Errand::Start { worker } => one(worker, gpu::Order::Start),
            Errand::Stop { worker } => one(worker, gpu::Order::Stop),
            Errand::Restart { worker } => one(worker, gpu::Order::Restart),
            Errand::Cleanup { worker: Some(worker) } => one(worker, gpu::Order::Cleanup),
            Errand::Cleanup { worker: None } => {
                let all = self.benches.iter().flat_map(|bench| {
                    let workers = cleanable(bench).into_iter();
                    workers.map(|worker| (bench.clone(), Deed::Order(gpu::Order::Cleanup(worker))))
                });
                let all: Vec<_> = all.collect();
                if all.is_empty() { Err(OrderError::NothingToClean) } else { Ok(all) }
            }
            Errand::HandoffTest { rounds } => {
                if !(1..=MOST_ROUNDS).contains(rounds) {
                    return Err(OrderError::Rounds);
                }
                let tested = self.benches.iter();
                Ok(tested.map(|bench| (bench.clone(), Deed::Test { rounds: *rounds })).collect())
            }
        }
    }

    fn bench_of(&self, name: &str) -> Result<Bench, OrderError> {
        let has = |bench: &&Bench| names(bench).iter().any(|worker| worker.as_str() == name);
        self.benches.iter().find(has).cloned().ok_or_else(|| {
            let known: Vec<String> =
                self.benches.iter().flat_map(names).map(|worker| worker.to_string()).collect();
            let known = if known.is_empty() { "none that is moved".into() } else { known.join(", ") };
            OrderError::NoSuchWorker { name: Untrusted::new(name).to_string(), known }
        })
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(bench: &Bench) -> Vec<WorkerId> {
    bench.arbiter.watch().borrow().workers.iter().map(|worker| worker.worker.clone()).collect()
}

/// Those that give cached memory back when they are told.
fn cleanable(bench: &Bench) -> Vec<WorkerId> {
    let view = bench.arbiter.watch();
    let view = view.borrow();
    let can = view.workers.iter().filter(|worker| worker.abilities.cleanup);
    can.map(|worker| worker.worker.clone()).collect()
}

/// Something done on one card.
#[derive(Debug)]
enum Deed {
    Order(gpu::Order),
    Test { rounds: u32 },
}

/// Where one order is written down.
#[derive(Debug, Clone)]
struct Page {
    book: Arc<Mutex<Book>>,
    id: u64,
}

impl Page {
    fn write(&self, write: impl FnOnce(&mut OrderStatus)) {
        if let Some(order) = lock(&self.book).orders.iter_mut().find(|order| order.id == self.id) {
            write(order);
        }
    }

    fn line(&self, line: String) {
        self.write(|order| {
            if order.lines.len() < LINES {
                order.lines.push(line);
            }
        });
    }
}

async fn carry_out(
    steps: Vec<(Bench, Deed)>,
    page: Page,
    clock: Clock,
    seeds: SeedSource,
    store: Option<Store>,
) {
    let mut failures = Vec::new();
    for (bench, deed) in steps {
        let done = async {
            match deed {
                Deed::Order(order) => bench.arbiter.order(order).await.map_err(|error| error.to_string()),
                Deed::Test { rounds } => test(&bench, rounds, &page, clock, &seeds, store.as_ref()).await,
            }
        };
        let done = tell(bench.arbiter.watch(), &page, clock.now(), done).await;
        failures.extend(done.err());
    }
    page.write(|order| {
        order.state = if failures.is_empty() {
            OrderState::Done
        } else {
            OrderState::Failed { why: Untrusted::error(&failures.join("; ")).to_string() }
        };
    });
}

async fn test(
    bench: &Bench,
    rounds: u32,
    page: &Page,
    clock: Clock,
    seeds: &SeedSource,
    store: Option<&Store>,
) -> Result<(), String> {
    let card = bench.arbiter.card().to_string();
    let prompt = Prompt::Text(REHEARSED.into());
    let mut view = bench.arbiter.watch();
    for number in 1..=rounds {
        let before = view.borrow_and_update().swaps;
        let id = seeds.local_id(clock.now());
        let mut least: Option<MiB> = None;
        let rehearsal = {
            let round = rehearse(bench, store, &id, &prompt, seeds.seed());
            tokio::pin!(round);
            loop {
                tokio::select! {
                    biased;
                    Ok(()) = view.changed() => {
                        let free = view.borrow_and_update().memory.map(|memory| memory.free);
                        least = least.into_iter().chain(free).min();
                    }
                    done = &mut round => break done,
                }
            }
        };
        let Rehearsal { waited, unloading, generation, scoring, score, .. } =
            rehearsal.map_err(|error| format!("round {number} on card {card}: {error}"))?;
        let round = Round {
            card: card.clone(),
            number,
            waited_s: waited.as_secs_f64(),
            unload_s: unloading.as_secs_f64(),
            generate_s: generation.as_secs_f64(),
            score_s: scoring.as_secs_f64(),
            score: score.map(|score| score.get()),
            least_free_mib: least,
            swapped: view.borrow().swaps > before,
        };
        page.write(|order| order.rounds.push(round));
    }
    Ok(())
}

/// Writes down each change of who is where, and of the memory with it, until `done`.
async fn tell<T>(
    mut view: watch::Receiver<CardView>,
    page: &Page,
    began: UnixTime,
    done: impl Future<Output = T>,
) -> T {
    let states = |view: &CardView| -> Vec<(WorkerId, WorkerState)> {
        view.workers.iter().map(|worker| (worker.worker.clone(), worker.state)).collect()
    };
    let mut before = states(&view.borrow_and_update());
    tokio::pin!(done);
    loop {
        tokio::select! {
            // The card shows what came of an order before it answers.
            biased;
            Ok(()) = view.changed() => {}
            done = &mut done => return done,
        }
        let (now, at, free) = {
            let view = view.borrow_and_update();
            (states(&view), view.at, view.memory.map(|memory| memory.free))
        };
        for (worker, state) in &now {
            let known = before.iter().find(|(other, _)| other == worker).map(|(_, state)| state);
            if known.is_some_and(|known| known != state) {
                let after = at.saturating_since(began);
                let free = free.map_or_else(String::new, |free| format!(", {free} free"));
                page.line(format!("{} {worker} {state}{free}", seconds(after)));
            }
        }
        before = now;
    }
}

fn seconds(time: Duration) -> String {
    format!("{:7.2}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::gpu::{Abilities, Arbiter, Residency, Tenant, WorkerView};
    use crate::primitives::CardId;

    fn view(state: WorkerState) -> CardView {
        let worker = WorkerView {
            worker: "judge".into(),
            tenant: Tenant::Scorer,
            residency: Residency::Preferred,
            abilities: Abilities::default(),
            state,
            since: UnixTime::EPOCH,
            held: MiB::ZERO,
            resident: MiB::ZERO,
            peak: MiB::ZERO,
            is_owed: false,
            starts: false,
        };
        let card = CardId { host: "localhost".into(), uuid: "auto".into() };
        let empty = Arbiter::new(card, Clock::system()).watch().borrow().clone();
        CardView { workers: vec![worker], ..empty }
    }

    /// Both may be there at once when the order is looked at again.
    #[tokio::test]
    async fn what_came_of_an_order_is_told_before_its_end() {
        let book = Arc::new(Mutex::new(Book::default()));
        let status = OrderStatus {
            id: 1,
            errand: Errand::Load { worker: "judge".into() },
            given_at: UnixTime::EPOCH,
            state: OrderState::UnderWay,
            lines: Vec::new(),
            rounds: Vec::new(),
        };
        lock(&book).orders.push_back(status);
        let page = Page { book: Arc::clone(&book), id: 1 };
        for round in 1..=64 {
            let (shows, seen) = watch::channel(view(WorkerState::Unloaded));
            let (answer, done) = oneshot::channel();
            let card = async {
                shows.send_replace(view(WorkerState::Resident));
                answer.send(()).unwrap();
            };
            let (done, ()) = tokio::join!(tell(seen, &page, UnixTime::EPOCH, done), card);
            done.unwrap();
            assert_eq!(lock(&book).orders[0].lines.len(), round);
        }
    }
}
