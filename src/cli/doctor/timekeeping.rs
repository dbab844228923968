//! How far our clock is off, by those of others.

use super::Check;
use crate::primitives::UnixTime;
use crate::wallet::Verdict;

/// How far another clock is ahead of ours, in milliseconds: at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead {
    pub least: i64,
    pub most: i64,
}

/// `Date` is cut to whole seconds, and servers refresh it once a second.
const DATE_SLACK_MS: i64 = 2_000;

/// A finalized block is a few blocks of 12 s old when a node shows it; on a healthy chain not more.
const FINALITY_MS: i64 = 90_000;

/// An axon refuses what was signed 4 s and the call's timeout (12 s for a pull) ago, so a clock that
/// is behind by more cannot mine.
const FAIL_MS: i64 = 10_000;
const WARN_MS: i64 = 2_000;

impl Ahead {
    /// By the `Date` of a reply.
    pub fn by_date(date: UnixTime, sent: UnixTime, answered: UnixTime) -> Self {
        let least = date.nanos_after(answered);
        let most = date.nanos_after(sent);
        Self { least: millis(least), most: millis(most).saturating_add(DATE_SLACK_MS) }
    }

    /// By the time of the newest finalized block, asked for from `asked` to `answered`.
    pub fn by_block(made: UnixTime, asked: UnixTime, answered: UnixTime) -> Self {
        let least = made.nanos_after(answered);
        let most = made.nanos_after(asked);
        Self { least: millis(least), most: millis(most).saturating_add(FINALITY_MS) }
    }

    /// Milliseconds by which it is certainly off, either way.
    fn certain(self) -> i64 {
        self.least.max(self.most.saturating_neg()).max(0)
    }
}

fn millis(nanos: i128) -> i64 {
    i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// The interval that most of the clocks agree on, and how many those are (Marzullo's algorithm, as
/// in NTP): one false clock among several does not count.
fn agreed(clocks: &[Ahead]) -> Option<(Ahead, usize)> {
    let mut edges: Vec<(i64, i32)> = clocks.iter().flat_map(|c| [(c.least, -1), (c.most, 1)]).collect();
    // At one place intervals begin before others end.
    edges.sort_unstable();
    let (mut inside, mut best, mut found) = (0, 0, None);
    for (position, (least, kind)) in edges.iter().enumerate() {
        inside -= kind;
        if inside > best {
            best = inside;
            found = edges.get(position + 1).map(|(most, _)| Ahead { least: *least, most: *most });
        }
    }
    Some((found?, usize::try_from(best).ok()?))
}

/// Our clock against all others.
pub(super) fn clock(clocks: &[Ahead]) -> Check {
    let Some((ahead, agreeing)) = agreed(clocks) else {
        return Check::warn("clock", "nobody told the time", "see what cannot be reached below or above");
    };
    let off = ahead.certain();
    let verdict = match off {
        FAIL_MS.. => Verdict::Fail,
        WARN_MS.. => Verdict::Warn,
        _ => Verdict::Pass,
    };
    let message = format!(
        "others are ahead of ours by {:+.1} s to {:+.1} s, by {agreeing} of {} clocks",
        ahead.least as f64 / 1e3,
        ahead.most as f64 / 1e3,
        clocks.len()
    );
    let advice = (verdict != Verdict::Pass).then(|| {
        format!(
            "the clock is off by at least {:.1} s: switch time synchronisation on (timedatectl set-ntp true)",
            off as f64 / 1e3
        )
    });
    Check { advice, ahead_ms: Some((ahead.least, ahead.most)), ..Check::new("clock", verdict, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: UnixTime = UnixTime::from_millis(1_800_000_000_700);

    fn ahead(least: i64, most: i64) -> Ahead {
        Ahead { least, most }
    }

    #[test]
    fn a_date_bounds_the_clock_from_both_sides() {
        let answered = UnixTime::from_millis(T.as_millis() + 100);
        // 0.7 s were cut off.
        assert_eq!(Ahead::by_date(UnixTime::from_secs(T.as_secs()), T, answered), ahead(-800, 1_300));
        assert_eq!(Ahead::by_date(UnixTime::from_secs(T.as_secs() + 60), T, answered), ahead(59_200, 61_300));
        assert_eq!(ahead(59_200, 61_300).certain(), 59_200);
        assert_eq!(ahead(-61_300, -59_200).certain(), 59_200);
        assert_eq!(ahead(-800, 1_300).certain(), 0);
    }

    #[test]
    fn one_false_clock_does_not_count() {
        let clocks =
            [ahead(-500, 1_500), ahead(3_600_000, 3_601_000), ahead(-900, 1_100), ahead(-60_000, 30_000)];
        assert_eq!(agreed(&clocks), Some((ahead(-500, 1_100), 3)));
        assert_eq!(clock(&clocks).verdict, Verdict::Pass);
        assert_eq!(agreed(&[]), None);
        assert_eq!(agreed(&[ahead(5, 5)]), Some((ahead(5, 5), 1)));
    }

    #[test]
    fn an_offset_that_axons_refuse_fails() {
        assert_eq!(clock(&[ahead(12_000, 14_000)]).verdict, Verdict::Fail);
        assert_eq!(clock(&[ahead(-5_000, -3_000)]).verdict, Verdict::Warn);
        assert_eq!(clock(&[]).verdict, Verdict::Warn);
    }
}
