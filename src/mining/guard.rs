//! Signs that another process uses one of our hotkeys.
//!
//! Two agents with one key pull each other's tasks, answer them, and break each other's cooldowns.
//! The locks keep a second one away on this machine; elsewhere only the validators' replies tell.
//!
//! Limits: a validator that loses its state in a restart shows one of the signs, once per lane; so a
//! single sign is told and only several within an hour make the agent pause. A second process that
//! never meets us at a validator is not seen.

use std::collections::VecDeque;
use std::time::Duration;

use crate::primitives::{SourceId, UnixTime};

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Our first answer to a task met "no task assigned": somebody else answered it, or the
    /// validator forgot it.
    AnsweredByOthers,
    /// A cooldown that the validator had named was over, and a later one was there.
    ForeignCooldown,
}

impl Sign {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::AnsweredByOthers => "a task of ours was already answered",
            Self::ForeignCooldown => "a cooldown that we did not cause",
        }
    }
}

/// How long signs count, and how long the pause lasts.
const WINDOW: Duration = Duration::from_secs(3_600);

/// What follows from a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consequence {
    Watch,
    /// Nothing is pulled with the hotkey before this time.
    Pause(UnixTime),
}

/// Watches over one hotkey.
#[derive(Debug)]
pub(super) struct Guard {
    limit: u32,
    signs: VecDeque<(UnixTime, SourceId)>,
    paused_until: Option<UnixTime>,
}

impl Guard {
    /// Pauses after `limit` signs; 0: never.
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, signs: VecDeque::new(), paused_until: None }
    }

    pub(super) fn notice(&mut self, sign: Sign, source: SourceId, now: UnixTime) -> Consequence {
        while self.signs.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.signs.pop_front();
        }
        // A validator that forgot its state shows this once per lane; more often it is no news.
        let known = sign == Sign::AnsweredByOthers && self.signs.iter().any(|(_, seen)| *seen == source);
        if !known {
            self.signs.push_back((now, source));
        }
        if self.limit == 0 || self.signs.len() < self.limit as usize {
            return Consequence::Watch;
        }
        self.signs.clear();
        let until = now + WINDOW;
        self.paused_until = Some(until);
        Consequence::Pause(until)
    }

    pub(super) fn paused_until(&self, now: UnixTime) -> Option<UnixTime> {
        self.paused_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wallet::HotkeyPair;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn source(name: &str) -> SourceId {
        SourceId::Validator(*HotkeyPair::dev(name).hotkey())
    }

    #[test]
    fn several_signs_within_an_hour_pause_the_hotkey() {
        let mut guard = Guard::new(3);
        let cooldown = Sign::ForeignCooldown;
        assert_eq!(guard.notice(cooldown, source("a"), NOW), Consequence::Watch);
        assert_eq!(guard.notice(cooldown, source("a"), NOW + Duration::from_secs(300)), Consequence::Watch);
        let third = NOW + Duration::from_secs(600);
        assert_eq!(guard.notice(cooldown, source("a"), third), Consequence::Pause(third + WINDOW));
        assert_eq!(guard.paused_until(third), Some(third + WINDOW));
        assert_eq!(guard.paused_until(third + WINDOW), None);
        // And it begins to count anew.
        assert_eq!(guard.notice(cooldown, source("a"), third + WINDOW), Consequence::Watch);
    }

    #[test]
    fn signs_far_apart_and_a_validator_that_forgot_do_not() {
        let mut guard = Guard::new(3);
        for hours in 0..9 {
            let at = NOW + Duration::from_secs(3_601 * hours);
            assert_eq!(guard.notice(Sign::ForeignCooldown, source("a"), at), Consequence::Watch);
        }
        let mut guard = Guard::new(3);
        for _ in 0..9 {
            assert_eq!(guard.notice(Sign::AnsweredByOthers, source("a"), NOW), Consequence::Watch);
        }
        assert_eq!(guard.notice(Sign::AnsweredByOthers, source("b"), NOW), Consequence::Watch);
        assert_ne!(guard.notice(Sign::AnsweredByOthers, source("c"), NOW), Consequence::Watch);
    }

    #[test]
    fn a_limit_of_zero_only_watches() {
        let mut guard = Guard::new(0);
        for _ in 0..9 {
            assert_eq!(guard.notice(Sign::ForeignCooldown, source("a"), NOW), Consequence::Watch);
        }
    }
}
