//! What the loop gives out: answers to send, tasks to cards, pulls to lanes. Nothing here awaits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::best_of::BestOf;
use super::cards::{Card, CardNo, CardState, Turn};
use super::decide::Terms;
use super::economy::is_throttle;
use super::jobs::{self, AnswerOrder, Done, PullOrder};
use super::lane::{Crew, Errand, Lane, LaneNo};
use super::make::Away;
use super::miner::{Budget, Job, Listed, Miner, Running};
use super::prices::Prices;
use super::roster::Roster;
use super::snapshot::{CardActivity, CardSnapshot, EconomySnapshot, MemberSnapshot, Snapshot};
use super::state::TaskState;
use super::subnet::{Standing, Subnet};
use super::{Candidates, UnscoredPolicy};
use crate::primitives::{Hotkey, SourceId, UnixTime};
use crate::store::TaskRecord;

/// A lane answers once in five minutes, and that takes five seconds: one permit serves so many, and more.
const LANES_PER_SUBMISSION: usize = 32;

/// Between two looks at a generator that is gone.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long prices stand.
const REPRICE_EVERY: Duration = Duration::from_secs(5);

/// A generator that is gone this long will not be back soon (rules.md R9, "Empty at once").
const PATIENCE: Duration = Duration::from_secs(100);

impl Miner {
    /// Gives out everything that can be given out now.
    pub(super) fn dispatch(&mut self, budget: Budget) {
        self.reprice();
        self.send_answers();
        if self.stopping.is_some() {
            if self.makes_in_time() {
                self.fill_cards();
            }
            self.tell_cards();
            return;
        }
        self.look_at_gone_cards();
        self.give_up_on_stranded();
        self.fill_cards();
        self.pull_tasks(budget);
        // A task that can only be declined needs no card.
        self.send_answers();
        self.tell_cards();
    }

    /// Answers that go out again have half of the permits at most, and one validator of several a quarter:
    /// validators that never reply would hold all of them, and with them everybody else's first answers.
    fn send_answers(&mut self) {
        let now = self.tools.clock.instant();
        let due: Vec<LaneNo> = self.answers.range(..=(now, LaneNo(u32::MAX))).map(|(_, no)| *no).collect();
        if due.is_empty() {
            return;
        }
        let most = self.tools.settings.max_submissions.max(self.lanes.len() / LANES_PER_SUBMISSION);
        let is_again =
            |lanes: &BTreeMap<LaneNo, Lane>, no: &LaneNo| lanes.get(no).is_some_and(|lane| lane.tries() > 0);
        let sending = self.running.values().filter_map(|running| match &running.job {
            Job::Answer(no) => Some(no),
            _ => None,
        });
        let mut again = 0;
        let mut by_source: HashMap<SourceId, usize> = HashMap::new();
        for no in sending {
            again += usize::from(is_again(&self.lanes, no));
            if let Some(lane) = self.lanes.get(no) {
                *by_source.entry(lane.key.source).or_default() += 1;
            }
        }
        let mut sources = self.lanes.values().map(|lane| lane.key.source);
        let first = sources.next();
        let several = sources.any(|source| Some(source) != first);
        let most_each = if several { (most / 4).max(2).min(most) } else { most };
        for no in due {
            if self.answering >= most {
                return;
            }
            let Some(source) = self.lanes.get(&no).map(|lane| lane.key.source) else { continue };
            let under_way = by_source.entry(source).or_default();
            let is_again = is_again(&self.lanes, &no);
            if *under_way >= most_each || (is_again && again >= most.div_ceil(2)) {
                continue;
            }
            *under_way += 1;
            again += usize::from(is_again);
            self.send_answer(no);
        }
    }

    fn send_answer(&mut self, no: LaneNo) {
        // What replies show of C is up to a second too short, and may be another validator's.
        let settings = &self.tools.settings;
        let cooldown = self.measures.cooldown(settings).max(settings.cooldown) + Duration::from_secs(1);
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let Errand::Open(work) = std::mem::replace(&mut lane.errand, Errand::Resting) else { return };
        let TaskState::Answering { answer, tries, in_doubt, .. } = &work.state else {
            lane.errand = Errand::Open(work);
            return;
        };
        let order = AnswerOrder {
            key: lane.key,
            source: lane.source.clone(),
            cooldowns: lane.cooldowns.clone(),
            task: Arc::clone(&work.task),
            answer: answer.clone(),
            tries: *tries,
            in_doubt: *in_doubt,
            cooldown,
            decisions: std::mem::take(&mut lane.unwritten),
        };
        lane.errand = Errand::Answering(work);
        self.relist(no);
        self.answering += 1;
        let tools = Arc::clone(&self.tools);
        self.spawn(Job::Answer(no), async move { Done::Answered(no, jobs::answer(tools, order).await) });
    }

    fn look_at_gone_cards(&mut self) {
        let now = self.tools.clock.instant();
        for number in 0..self.cards.len() {
            if let CardState::Gone { why, look_at, .. } = &mut self.cards[number].state
                && look_at.is_some_and(|at| at <= now)
            {
                *look_at = None;
                let (tools, card, was) = (Arc::clone(&self.tools), CardNo(number), why.clone());
                let look = async move { Done::Looked(card, jobs::look(tools, card, was).await) };
                self.spawn(Job::Look(card), look);
            }
        }
    }

    /// Takes a card on which nothing can be made out of use until that is over.
    pub(super) fn lose_card(&mut self, card: CardNo, why: Away) {
        let now = self.tools.clock.instant();
        let bench = &self.tools.benches[card.0];
        let (worker, endpoint) = (bench.generator.name(), bench.generator.endpoint());
        let (since, known) = match &self.cards[card.0].state {
            CardState::Gone { since, why: was, .. } => (*since, was.is_like(&why)),
            _ => (now, false),
        };
        match &why {
            _ if known => {}
            Away::Refuses => tracing::error!(
                alarm = "generator_down", worker, %endpoint,
                "The generator is not reachable, no task is pulled: start it, or correct its url in the configuration"
            ),
            Away::OnCpu => tracing::error!(
                alarm = "generator_down", worker, %endpoint,
                "The generator runs without its card (gpu_enabled: false), no task is pulled until its health says otherwise"
            ),
            Away::NoCard(error) => tracing::error!(
                alarm = "card_unusable", card = %bench.arbiter.card(), %error,
                "The card cannot be had, no task is pulled until it can"
            ),
        }
        self.cards[card.0].state = CardState::Gone { why, since, look_at: Some(now + LOOK_EVERY) };
    }

    /// Takes a card into use again.
    pub(super) fn regain_card(&mut self, card: CardNo) {
        let bench = &self.tools.benches[card.0];
        match &self.cards[card.0].state {
            CardState::Gone { why: Away::NoCard(_), .. } => {
                tracing::info!(card = %bench.arbiter.card(), "The card can be had again");
            }
            _ => tracing::info!(worker = bench.generator.name(), "The generator is back"),
        }
        self.release(card);
    }

    /// Tasks that no card can work on for too long are declined: an open one blocks its validator.
    fn give_up_on_stranded(&mut self) {
        let now = self.tools.clock.now();
        let waiting: Vec<LaneNo> = self.waiting.iter().map(|(_, no)| *no).collect();
        for no in waiting {
            let Some(lane) = self.lanes.get_mut(&no) else { continue };
            let Errand::Open(work) = &mut lane.errand else { continue };
            let kind = work.task.prompt.kind();
            let is_made = matches!(work.state, TaskState::Made { .. });
            let mut there = self.cards.iter().zip(&self.tools.benches).filter(|(card, _)| !card.is_gone());
            if there.any(|(_, bench)| is_made || bench.generator.makes(kind)) {
                work.stranded = None;
                continue;
            }
            let since = *work.stranded.get_or_insert(now);
            if now.saturating_since(since) >= PATIENCE {
                let state = std::mem::replace(&mut work.state, TaskState::Open(super::Tries::default()));
                let why = self.cards.iter().find_map(|card| match &card.state {
                    CardState::Gone { why, .. } => Some(why.reason()),
                    _ => None,
                });
                work.state = state.given_up(why.unwrap_or(Away::Refuses.reason()).into());
                self.relist(no);
            }
        }
    }

    /// The moment at which something is to be done about a card.
    pub(super) fn card_timer(&self, card: CardNo, now: Instant) -> Option<Instant> {
        let at = match self.cards[card.0].state {
            CardState::Gone { look_at, .. } => look_at,
            CardState::Busy { .. } => self.free_at(card).map(|at| at - self.measures.lead()),
            CardState::Idle { .. } => None,
        };
        at.filter(|at| *at > now)
    }

    /// What the two turns of a task on a card usually take.
    pub(super) fn turns(&self) -> (Duration, Duration) {
        let scored = self.tools.benches.iter().any(|bench| bench.scorer.is_some()) && !self.skips_scoring();
        (self.measures.making(), if scored { self.measures.judging() } else { Duration::ZERO })
    }

    /// Whether a result that was finished now would go out unscored.
    fn skips_scoring(&self) -> bool {
        match self.tools.settings.unscored {
            UnscoredPolicy::Never => false,
            UnscoredPolicy::Always => true,
            UnscoredPolicy::Auto => self.prices().skips_scoring(self.wanting_card()),
        }
    }

    /// Tasks and due lanes that wait for a card.
    fn wanting_card(&self) -> u32 {
        let due = self.askable(self.tools.clock.instant());
        u32::try_from(due + self.waiting.len() - self.gathered_everywhere()).unwrap_or(u32::MAX)
    }

    fn fill_cards(&mut self) {
        let waiting: Vec<LaneNo> = self.waiting.iter().map(|(_, no)| *no).collect();
        for no in waiting {
            let Some(Errand::Open(work)) = self.lanes.get(&no).map(|lane| &lane.errand) else { continue };
            let kind = work.task.prompt.kind();
            let makes = matches!(work.state, TaskState::Open(_));
            let makes_it =
                |card: &CardNo| self.tools.benches[card.0].generator.makes(kind) && !self.scores_next(*card);
            let on = self.gathered_on(no);
            let scores_it = |card: &CardNo| on.is_none_or(|on| on == *card && self.scores_next(on));
            let idle: Vec<CardNo> = (0..self.cards.len())
                .map(CardNo)
                .filter(|card| self.cards[card.0].is_idle())
                .filter(|card| if makes { makes_it(card) } else { scores_it(card) })
                .collect();
            let Some(first) = idle.first().copied() else { continue };
            if makes {
                let crew = self.crew(no, &idle);
                self.start_making(no, &crew);
            } else {
                self.cards[first.0].scores = true;
                self.start_judging_kept(no, first);
            }
        }
    }

    /// The cards that make candidates of a task side by side: one, and those that have nothing else
    /// to do, if a better result is worth making (rules.md R9, "Best of N").
    fn crew(&self, no: LaneNo, idle: &[CardNo]) -> Vec<CardNo> {
        let scored = |card: &CardNo| self.tools.benches[card.0].scorer.is_some();
        let Some(work) = self.lanes.get(&no).and_then(Lane::work) else { return Vec::new() };
        if !idle.iter().all(scored) || work.state.failed() > 0 {
            return idle.iter().take(1).copied().collect();
        }
        let terms = self.terms(&work.task);
        let wanted = match self.tools.settings.candidates {
            Candidates::Fixed(wanted) => wanted.saturating_sub(work.state.passed()) as usize,
            Candidates::Auto if !terms.is_known() || terms.prices.card > 0.0 => 1,
            Candidates::Auto => {
                let soon = self.tools.clock.instant() + self.measures.candidate();
                let coming = self.askable(soon) + self.waiting.len() - 1;
                let spare = idle.len().saturating_sub(coming + self.pulling as usize).max(1);
                let worth = |made: usize| {
                    let made = u32::try_from(made).unwrap_or(u32::MAX);
                    let (elapsed, throttle, period) = (terms.elapsed, terms.throttle, terms.period);
                    BestOf::is_worth_another(made, elapsed, Duration::ZERO, throttle, period)
                };
                (1..=spare).find(|made| *made == spare || !worth(*made)).unwrap_or(1)
            }
        };
        idle.iter().take(wanted.max(1)).copied().collect()
    }

    fn start_making(&mut self, no: LaneNo, cards: &[CardNo]) {
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let Errand::Open(work) = std::mem::replace(&mut lane.errand, Errand::Resting) else { return };
        let task = Arc::clone(&work.task);
        let queued = match self.listed.get(&no) {
            Some(Listed::Card(_, since)) => since.elapsed(),
            _ => Duration::ZERO,
        };
        let size = u32::try_from(cards.len()).unwrap_or(u32::MAX);
        let mut decisions = std::mem::take(&mut lane.unwritten);
        lane.errand = Errand::Making(Crew { work, size, pending: size, outcomes: Vec::new() });
        self.relist(no);
        for card in cards.iter().copied() {
            self.occupy(card, Turn::Making);
            self.cards[card.0].scores = false;
            let (tools, task) = (Arc::clone(&self.tools), Arc::clone(&task));
            let decisions = std::mem::take(&mut decisions);
            self.spawn(Job::Card(no, card, Turn::Making), async move {
                Done::Made(no, card, jobs::attempt(tools, card, task, queued, decisions).await)
            });
        }
    }

    /// A result found on record goes to a scorer.
    fn start_judging_kept(&mut self, no: LaneNo, card: CardNo) {
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let Errand::Open(work) = std::mem::replace(&mut lane.errand, Errand::Resting) else { return };
        let TaskState::Made { result, .. } = &work.state else {
            lane.errand = Errand::Open(work);
            return;
        };
        let result = result.clone();
        lane.errand = Errand::Making(Crew { work, size: 1, pending: 1, outcomes: Vec::new() });
        self.relist(no);
        self.start_judging(no, card, result);
    }

    pub(super) fn start_judging(&mut self, no: LaneNo, card: CardNo, result: crate::store::KeptResult) {
        let Some(Errand::Making(crew)) = self.lanes.get(&no).map(|lane| &lane.errand) else { return };
        let task = Arc::clone(&crew.work.task);
        self.occupy(card, Turn::Judging);
        let tools = Arc::clone(&self.tools);
        self.spawn(Job::Card(no, card, Turn::Judging), async move {
            Done::Judged(no, card, jobs::score(tools, card, task, result).await)
        });
    }

    fn occupy(&mut self, card: CardNo, turn: Turn) {
        self.cards[card.0].state = CardState::Busy { turn, since: self.tools.clock.instant() };
    }

    pub(super) fn release(&mut self, card: CardNo) {
        self.cards[card.0].state = CardState::Idle { since: self.tools.clock.instant() };
    }

    fn pull_tasks(&mut self, budget: Budget) {
        let now = self.tools.clock.moment();
        if self.resting.first().is_none_or(|(due, _)| *due > now.instant) {
            return;
        }
        let turn = self.turn();
        loop {
            if !self.may_begin(budget) {
                return;
            }
            let due: Vec<LaneNo> = self
                .resting
                .range(..=(now.instant, LaneNo(u32::MAX)))
                .map(|(_, no)| *no)
                .filter(|no| self.lanes.get(no).is_some_and(|lane| self.may_ask(lane, now)))
                .collect();
            let Some((slot, look_at)) = self.slot(due.len()) else { return };
            let prospects = due.iter().filter_map(|no| {
                let lane = self.lanes.get(no)?;
                let (stake, owner) = self.worth(lane);
                Some((*no, lane.prospect(now, turn, stake, owner)))
            });
            let Some(no) = Roster::next(prospects) else { return };
            self.pull(no, slot, look_at, now.instant);
        }
    }

    /// Whether the budget allows one more task.
    fn may_begin(&self, budget: Budget) -> bool {
        if self.tools.room.is_full() {
            return false;
        }
        let limit = match budget {
            Budget::Endless => return true,
            Budget::Tasks(limit) => limit,
            Budget::Once => 1,
        };
        self.opening == 0 && self.ended + (self.begun() as u64) < limit
    }

    /// Room for one more task: when it came about, and the card whose generator is to be looked at
    /// before anything is pulled for it. `due` lanes are waiting.
    fn slot(&self, due: usize) -> Option<(Instant, Option<CardNo>)> {
        let now = self.tools.clock.instant();
        let soon = now + self.measures.lead();
        let mut idle: Vec<(Instant, CardNo)> = Vec::new();
        let mut ending = 0;
        for (number, card) in self.cards.iter().enumerate() {
            match card.state {
                CardState::Idle { since } => idle.push((since, CardNo(number))),
                CardState::Busy { .. } => {
                    let known = self.measures.has_made();
                    let free_at = self.free_at(CardNo(number));
                    ending += usize::from(known && free_at.is_some_and(|at| at <= soon));
                }
                CardState::Gone { .. } => {}
            }
        }
        idle.sort_unstable();
        let taken = self.wanting() + self.coming(now);
        if let Some((since, card)) = idle.get(taken) {
            return Some((*since, Some(*card)));
        }
        let beyond = taken - idle.len();
        // Pulling a moment before a card is free saves the wait for the reply. It costs nothing even if
        // the card makes another candidate first: the lane would wait for the card all the same.
        if beyond < ending {
            return Some((now, None));
        }
        // Cards are the limit when lanes wait although one more was just served.
        let stock = ending + self.tools.settings.stock as usize;
        let working = self.cards.iter().any(|card| matches!(card.state, CardState::Busy { .. }));
        (working && due > 1 && beyond < stock && self.prices().card > 0.0).then_some((now, None))
    }

    /// Results that were gathered, on any card.
    fn gathered_everywhere(&self) -> usize {
        self.waiting.iter().filter(|(_, no)| self.gathered_on(*no).is_some()).count()
    }

    /// Tasks that wait for a card to be made there, and can be.
    fn wanting(&self) -> usize {
        let stranded = self.waiting.iter().filter(|(_, no)| {
            self.lanes.get(no).and_then(Lane::work).is_some_and(|work| work.stranded.is_some())
        });
        self.waiting.len() - stranded.count() - self.gathered_everywhere()
    }

    /// Pulls that will bring a task any moment.
    pub(super) fn coming(&self, now: Instant) -> usize {
        self.running.values().filter_map(Running::slow_pull).filter(|slow| now < *slow).count()
    }

    fn pull(&mut self, no: LaneNo, slot: Instant, look_at: Option<CardNo>, now: Instant) {
        let registered = |standing| matches!(standing, Standing::Registered { .. });
        let Some(lane) = self.lanes.get_mut(&no) else { return };
        let waited = now.saturating_duration_since(lane.due());
        let late = waited.min(now.saturating_duration_since(slot));
        let order = PullOrder {
            key: lane.key,
            source: lane.source.clone(),
            cooldowns: lane.cooldowns.clone(),
            look_at,
            registered: registered(self.ours[lane.member].standing()),
        };
        lane.errand = Errand::Pulling;
        self.relist(no);
        self.pulling += 1;
        self.count(|tally| {
            tally.pulls += 1;
            tally.lateness.observe(late);
            tally.longest_wait = tally.longest_wait.max(waited);
        });
        let tools = Arc::clone(&self.tools);
        self.spawn(Job::Pull(no), async move { Done::Pulled(no, jobs::pull(tools, order).await) });
    }

    /// About how long it takes until a lane is served again.
    fn turn(&self) -> Duration {
        let lanes = self.lanes.len() as f64;
        let cards = self.cards.len().max(1) as f64;
        let round = self.measures.candidate().as_secs_f64() * lanes / cards;
        let settings = &self.tools.settings;
        let period =
            self.measures.period(self.measures.candidate(), self.measures.throttle(settings), settings);
        period.max(Duration::from_secs_f64(round.clamp(0.0, 1e9)))
    }

    /// A lane's share of all stake, and whether it is the subnet owner's.
    fn worth(&self, lane: &Lane) -> (f64, bool) {
        let SourceId::Validator(validator) = lane.key.source;
        let subnet = self.ours[lane.member].subnet.as_ref();
        let stake = subnet.and_then(|subnet| subnet.stake_share(&validator)).unwrap_or(1.0);
        (stake, self.owner(subnet) == Some(validator))
    }

    fn owner(&self, subnet: Option<&Subnet>) -> Option<Hotkey> {
        self.tools.settings.owner_hotkey.or_else(|| subnet?.owner())
    }

    /// The worth of time, a few seconds old at most.
    pub(super) fn prices(&self) -> Prices {
        self.prices.map_or_else(|| self.worth_of_time(), |(_, prices)| prices)
    }

    /// Takes the worth of time anew now and then: it changes slowly, and is asked for often.
    fn reprice(&mut self) {
        let now = self.tools.clock.instant();
        if self.prices.is_none_or(|(at, _)| now >= at + REPRICE_EVERY) {
            self.prices = Some((now, self.worth_of_time()));
        }
    }

    fn worth_of_time(&self) -> Prices {
        let now = self.tools.clock.now();
        let lanes = self.lanes.values().filter(|lane| self.may_ask_at_all(lane, now)).count();
        let cards = self.cards.iter().filter(|card| !card.is_gone()).count();
        let scored = self.tools.benches.iter().any(|bench| bench.scorer.is_some());
        self.measures.prices(lanes, cards.max(1), &self.tools.settings, scored)
    }

    pub(super) fn may_ask_at_all(&self, lane: &Lane, now: UnixTime) -> bool {
        !lane.leaving && self.ours[lane.member].may_pull(now) && !self.measures.is_demoted(&lane.key.source)
    }

    /// What decisions on a task go by now.
    pub(super) fn terms(&self, task: &TaskRecord) -> Terms<'_> {
        let settings = &self.tools.settings;
        let now = self.tools.clock.now();
        let elapsed = now.saturating_since(task.pulled_at) + self.measures.answering();
        let candidate = self.measures.candidate();
        let instant = self.tools.clock.instant();
        let soon = self.askable(instant + candidate);
        let idle = self.cards.iter().filter(|card| card.is_idle()).count();
        let coming = soon + self.waiting.len() + self.pulling as usize;
        let prices = self.prices();
        let throttle = Duration::from_secs(task.throttle_s);
        let throttle = if is_throttle(throttle) { throttle } else { self.measures.throttle(settings) };
        Terms {
            settings,
            calibration: self.measures.calibration(),
            this_pass: self.measures.passing.after(0),
            pass: self.measures.passing.after(0),
            known: self.measures.passing.count(),
            threshold: task.threshold,
            elapsed,
            candidate,
            period: self.measures.period(elapsed, throttle, settings),
            throttle,
            waiting: self.wanting_card(),
            card_is_free: coming <= idle && prices.card <= 0.0,
            prices,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.tools.clock.now();
        let prices = self.prices();
        let lanes = self.lanes.values().filter(|lane| self.may_ask_at_all(lane, now)).count();
        let card = |(card, bench): (&Card, &super::Bench)| CardSnapshot {
            card: bench.arbiter.card().uuid.clone(),
            generator: bench.generator.name().to_owned(),
            reachable: !card.is_gone(),
            state: match card.state {
                CardState::Idle { .. } => CardActivity::Idle,
                CardState::Busy { turn: Turn::Making, .. } => CardActivity::Generating,
                CardState::Busy { turn: Turn::Judging, .. } => CardActivity::Scoring,
                CardState::Gone { .. } => CardActivity::Gone,
            },
        };
        Snapshot {
            at: now,
            members: self
                .ours
                .iter()
                .map(|ours| MemberSnapshot {
                    hotkey: ours.hotkey,
                    standing: ours.standing(),
                    paused_until: ours.guard.paused_until(now),
                })
                .collect(),
            ended: self.ended,
            cards: self.cards.iter().zip(&self.tools.benches).map(card).collect(),
            economy: EconomySnapshot {
                lane_price_per_hour: 3_600.0 * prices.lane,
                card_price_per_hour: 3_600.0 * prices.card,
                gate: prices.gate(self.tools.settings.penalty),
                saturation: prices.saturation,
                lanes,
                pass: self.measures.passing.after(0),
                accepted_per_hour: prices.accepted_per_hour,
                calibrated: self.measures.calibration().is_calibrated(),
            },
            lanes: self
                .lanes
                .values()
                .map(|lane| lane.snapshot(self.measures.is_demoted(&lane.key.source)))
                .collect(),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut super::Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
