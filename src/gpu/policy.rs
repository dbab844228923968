//! When to move whom although nobody waits, and whom to serve first. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::worker::Tenant;

/// How hand-offs are made (`gpus.handoff`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Ahead of time where that pays, and several generations a swap where the card is the limit.
    #[default]
    Auto,
    /// The scorer comes back for every result, and nothing is moved ahead of time.
    PerTask,
    /// Nothing is ever moved.
    Off,
}

/// Generations per swap (`gpus.batch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// As the prices say, up to so many.
    Auto {
        most: u32,
    },
    Fixed(u32),
}

impl Default for Batch {
    fn default() -> Self {
        Self::Auto { most: 4 }
    }
}

/// What is to come, as far as the loop knows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Forecast {
    /// Until the next task is expected to want the generator; `None`: nobody knows.
    pub next_generation_in: Option<Duration>,
    /// Tasks that only wait for the generator.
    pub queued_generations: u32,
    /// Results that only wait for the scorer, once what is in hand has been generated.
    pub queued_scorings: u32,
    /// What is in the hands of whoever asks for the card next or has it, and since when. Until that
    /// lease is granted it counts as waiting.
    pub in_hand: Option<(Tenant, Instant)>,
    /// What a second of the card is worth, in any unit; 0 unless cards are the limit.
    pub card_price: f64,
    /// What a second of a lane is worth, in the same unit.
    pub lane_price: f64,
    /// K: lanes that give tasks, per card; 0: not known.
    pub lanes: f64,
    /// From one candidate of a lane to the next if none waits for others (rules.md R2).
    pub period: Duration,
}

/// What the turns on a card take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// g: one generation.
    pub generation: Duration,
    /// v: one scoring.
    pub scoring: Duration,
    /// h: the scorer out and in again; nothing if both fit.
    pub swap: Duration,
}

/// Lanes do not come back in step: with as many as would just do the card waits up to 8 % of the time
/// (`mining::prices`, "Limits"), and a task that was pulled ahead waits for its turn.
const IN_STEP: f64 = 0.9;

/// Less is not worth a later answer.
const LEAST_GAIN: f64 = 1.002;

/// How many generations to make per swap.
///
/// One more generation a swap saves each task h/M - h/(M+1) of the card, and has it wait for half a
/// generation and half a scoring more (rules.md R9, "Hand-off": b(M) = g + h/M + v). That must be worth
/// its price; and the lanes, which come back later by that wait, must still keep the card busy: just
/// above K* they would not.
pub fn batch(times: &Times, forecast: &Forecast, policy: Batch) -> u32 {
    let most = match policy {
        Batch::Fixed(count) => return count.max(1),
        Batch::Auto { most } => most.max(1),
    };
    let seconds = |time: Duration| time.as_secs_f64();
    let wait = (seconds(times.generation) + seconds(times.scoring)) / 2.0;
    let rate = |count: u32| {
        let card =
            seconds(times.generation) + seconds(times.scoring) + seconds(times.swap) / f64::from(count);
        let lane = seconds(forecast.period) + f64::from(count - 1) * wait;
        if forecast.lanes > 0.0 { (1.0 / card).min(IN_STEP * forecast.lanes / lane) } else { 1.0 / card }
    };
    let pays = |count: u32| {
        let saved = seconds(times.swap) / (f64::from(count) * f64::from(count + 1));
        let faster = rate(count + 1) > rate(count) * LEAST_GAIN;
        faster && forecast.card_price * saved > forecast.lane_price * wait
    };
    (1..most).find(|count| !pays(*count)).unwrap_or(most)
}

/// Somebody who waits for the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Somebody must be moved for it.
    pub(super) swap: bool,
    /// How often others who came later were served before.
    pub(super) overtaken: u32,
    /// May be overtaken, and overtake.
    pub(super) flexible: bool,
}

/// Whom to serve: whoever came first, or somebody for whom nothing need be moved. Nobody is overtaken
/// as often as the batch is large.
pub(super) fn pick(queue: &[Turn], batch: u32) -> Option<usize> {
    let first = queue.first()?;
    if !first.swap {
        return Some(0);
    }
    let patient = |turn: &&Turn| turn.flexible && turn.overtaken + 1 < batch;
    let ahead = queue.iter().take_while(patient).count();
    let ready = queue.iter().take(ahead + 1).position(|turn| turn.flexible && !turn.swap);
    Some(ready.unwrap_or(0))
}

/// A card that nobody waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leisure {
    pub(super) mode: Mode,
    pub(super) now: Instant,
    /// Since when nobody has held it.
    pub(super) since: Instant,
    /// When the forecast was made, and what it said.
    pub(super) forecast: Option<(Instant, Forecast)>,
    /// What it takes to make way for the next generation; `None`: nobody is in its way.
    pub(super) making_way: Option<Duration>,
    /// What it takes to bring back who left; `None`: nobody did.
    pub(super) bringing_back: Option<Duration>,
}

/// What to do with a card that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pastime {
    MakeWay,
    BringBack,
    /// Look again then, or when something changes.
    Wait(Option<Instant>),
}

/// After the last lease somebody usually asks at once: only then is the card idle.
const PATIENCE: Duration = Duration::from_secs(2);

/// A task may be late by so much before it is taken not to come.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn pastime(leisure: &Leisure) -> Pastime {
    let Leisure { mode, now, since, forecast, making_way, bringing_back } = *leisure;
    match mode {
        Mode::Off => return Pastime::Wait(None),
        // What is to be scored asks for it by itself; a result that goes out unscored needs it nowhere, and
        // the next generation asks at once.
        Mode::PerTask if bringing_back.is_some() && now >= since + PATIENCE => return Pastime::BringBack,
        Mode::PerTask => return Pastime::Wait(bringing_back.map(|_| since + PATIENCE)),
        Mode::Auto => {}
    }
    let (at, forecast) = forecast.unwrap_or((since, Forecast::default()));
    let due = match forecast.queued_generations {
        0 => forecast.next_generation_in.and_then(|wait| at.checked_add(wait)),
        // They could not come while the card was held.
        _ => Some(at.max(since)),
    };
    // Nobody expects it any more.
    let due = due.filter(|due| now < *due + GRACE);
    let scores_first = forecast.queued_scorings > 0;
    let mut look_at = None;
    if let (Some(due), Some(lead), false) = (due, making_way, scores_first) {
        let start = due.checked_sub(lead).unwrap_or(now);
        if start <= now {
            return Pastime::MakeWay;
        }
        look_at = Some(start);
    }
    let Some(back) = bringing_back else { return Pastime::Wait(look_at) };
    if scores_first && forecast.queued_generations == 0 {
        return Pastime::BringBack;
    }
    // Back and out again takes twice the time.
    let start = match due {
        Some(due) if due < now + 2 * back => due + GRACE,
        _ => since + PATIENCE,
    };
    if start <= now {
        return Pastime::BringBack;
    }
    Pastime::Wait(Some(look_at.map_or(start, |at| at.min(start))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn reference() -> Times {
        Times { generation: S(30), scoring: S(5), swap: S(5) }
    }

    fn prices(card_price: f64, lane_price: f64) -> Forecast {
        Forecast { card_price, lane_price, ..Forecast::default() }
    }

    #[test]
    fn batches_grow_with_the_price_of_the_card() {
        let of = |forecast: Forecast| batch(&reference(), &forecast, Batch::default());
        // Validators are the limit.
        assert_eq!(of(prices(0.0, 1.0)), 1);
        // Cards are, and a lane's time is worth nothing.
        assert_eq!(of(prices(1.0, 0.0)), 4);
        // Between: h/(M(M+1)) against (g+v)/2 = 17.5 s.
        assert_eq!(of(prices(1.0, 0.1)), 2);
        assert_eq!(of(prices(1.0, 0.04)), 3);
        assert_eq!(of(prices(1.0, 1.0)), 1);
    }

    #[test]
    fn lanes_that_come_back_later_must_still_keep_the_card_busy() {
        // rules.md R9: e 44.75 s, so 314.75 s from pull to pull, and K* is 7.9.
        let period = Duration::from_millis(314_750);
        let of =
            |lanes| batch(&reference(), &Forecast { lanes, period, ..prices(1.0, 0.0) }, Batch::default());
        assert_eq!([4.0, 8.0, 9.0, 10.0, 12.0, 20.0].map(of), [1, 1, 1, 2, 4, 4]);
    }

    #[test]
    fn nothing_is_saved_where_nothing_is_moved() {
        let fits = Times { swap: Duration::ZERO, ..reference() };
        assert_eq!(batch(&fits, &prices(1.0, 0.0), Batch::default()), 1);
        assert_eq!(batch(&reference(), &prices(f64::NAN, 0.0), Batch::default()), 1);
        assert_eq!(batch(&reference(), &prices(0.0, 9.0), Batch::Fixed(3)), 3);
        assert_eq!(batch(&reference(), &prices(1.0, 0.0), Batch::Auto { most: 0 }), 1);
    }

    fn turn(swap: bool, overtaken: u32) -> Turn {
        Turn { swap, overtaken, flexible: true }
    }

    #[test]
    fn whoever_needs_no_swap_goes_first_but_not_for_ever() {
        assert_eq!(pick(&[], 4), None);
        assert_eq!(pick(&[turn(false, 0), turn(false, 0)], 4), Some(0));
        assert_eq!(pick(&[turn(true, 0), turn(false, 0)], 4), Some(1));
        assert_eq!(pick(&[turn(true, 2), turn(false, 0)], 4), Some(1));
        assert_eq!(pick(&[turn(true, 3), turn(false, 0)], 4), Some(0));
        assert_eq!(pick(&[turn(true, 0), turn(false, 0)], 1), Some(0));
        // All those in between must be patient as well.
        assert_eq!(pick(&[turn(true, 0), turn(true, 3), turn(false, 0)], 4), Some(0));
        assert_eq!(pick(&[turn(true, 0), turn(true, 2), turn(false, 0)], 4), Some(2));
        let order = Turn { flexible: false, ..turn(true, 0) };
        assert_eq!(pick(&[order, turn(false, 0)], 4), Some(0));
        assert_eq!(pick(&[turn(true, 0), order, turn(false, 0)], 4), Some(0));
    }

    fn idle(forecast: Option<Forecast>, after: Duration, away: bool) -> (Pastime, Instant) {
        let since = Instant::now();
        let leisure = Leisure {
            mode: Mode::Auto,
            now: since + after,
            since,
            forecast: forecast.map(|forecast| (since, forecast)),
            making_way: (!away).then_some(S(2)),
            bringing_back: away.then_some(S(3)),
        };
        (pastime(&leisure), since)
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_comes_back_once_the_card_is_idle() {
        let (what, since) = idle(None, Duration::ZERO, true);
        assert_eq!(what, Pastime::Wait(Some(since + S(2))));
        assert_eq!(idle(None, S(2), true).0, Pastime::BringBack);
        // At once if it is waited for.
        let scoring = Forecast { queued_scorings: 1, ..Forecast::default() };
        assert_eq!(idle(Some(scoring), Duration::ZERO, true).0, Pastime::BringBack);
        // Not if the next generation is near.
        let soon = Forecast { next_generation_in: Some(S(5)), ..Forecast::default() };
        let (what, since) = idle(Some(soon), S(3), true);
        assert_eq!(what, Pastime::Wait(Some(since + S(10))));
        assert_eq!(idle(Some(soon), S(10), true).0, Pastime::BringBack);
        let more = Forecast { queued_generations: 2, queued_scorings: 1, ..Forecast::default() };
        let (what, since) = idle(Some(more), S(1), true);
        assert_eq!(what, Pastime::Wait(Some(since + S(5))));
        let late = Forecast { next_generation_in: Some(S(90)), ..Forecast::default() };
        assert_eq!(idle(Some(late), S(3), true).0, Pastime::BringBack);
    }

    #[tokio::test(start_paused = true)]
    async fn way_is_made_just_before_the_next_generation() {
        let soon = Forecast { next_generation_in: Some(S(60)), ..Forecast::default() };
        let (what, since) = idle(Some(soon), S(3), false);
        assert_eq!(what, Pastime::Wait(Some(since + S(58))));
        assert_eq!(idle(Some(soon), S(58), false).0, Pastime::MakeWay);
        // It did not come.
        assert_eq!(idle(Some(soon), S(66), false).0, Pastime::Wait(None));
        let scoring = Forecast { queued_scorings: 1, ..soon };
        assert_eq!(idle(Some(scoring), S(58), false).0, Pastime::Wait(None));
        assert_eq!(idle(None, S(58), false).0, Pastime::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn per_task_brings_back_once_the_card_is_idle_and_off_does_nothing() {
        let since = Instant::now();
        let soon = Forecast { next_generation_in: Some(S(1)), queued_generations: 1, ..Forecast::default() };
        let leisure = Leisure {
            mode: Mode::PerTask,
            now: since,
            since,
            forecast: Some((since, soon)),
            making_way: Some(S(2)),
            bringing_back: Some(S(3)),
        };
        assert_eq!(pastime(&leisure), Pastime::Wait(Some(since + S(2))));
        assert_eq!(pastime(&Leisure { now: since + S(2), ..leisure }), Pastime::BringBack);
        assert_eq!(pastime(&Leisure { bringing_back: None, ..leisure }), Pastime::Wait(None));
        assert_eq!(pastime(&Leisure { mode: Mode::Off, ..leisure }), Pastime::Wait(None));
    }
}
