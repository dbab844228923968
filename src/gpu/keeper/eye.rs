//! Watching the memory of a worker at work, to bring back who left while its last stages run.
//!
//! Workers tell nothing of their progress. Whose stages are declared has its greediest one behind it
//! once its memory was seen to rise to that and to fall again; what it holds from then on is declared
//! too. Looked at from the middle of the usual time on, seldom at first.

use std::time::Duration;

use tokio::time::Instant;

use super::super::book::AtWork;
use super::super::effects::Cause;
use super::super::policy::Mode;
use super::super::steps::Sight;
use super::super::worker::{Tenant, WorkerId};
use super::Keeper;

/// How long there must have been room before somebody is brought back beside one at work.
pub(super) const ROOM: Duration = Duration::from_millis(300);

/// Between looks before the end is near, and while there is nothing to be brought back.
const SELDOM: Duration = Duration::from_millis(500);

const OFTEN: Duration = Duration::from_millis(50);

/// Stages end a little earlier or later than usual.
const EARLIER: Duration = Duration::from_secs(1);

/// What was seen of a work so far.
#[derive(Debug)]
pub(super) struct Eye {
    pub(super) look_at: Instant,
    /// From then on it is looked at often.
    near: Instant,
    /// Its memory was about as high as it gets.
    crest: bool,
    room_since: Option<Instant>,
}

impl Keeper {
    /// For work that begins now; `None` where nothing can be gained.
    pub(super) fn open_eye(&self, worker: &WorkerId, tenant: Tenant, granted: Instant) -> Option<Eye> {
        let usual = self.generation.get()?;
        if tenant != Tenant::Generator || self.settings.mode != Mode::Auto || self.reading.is_none() {
            return None;
        }
        self.book.ledger.after_crest(worker)?;
        let owed = self.book.all().find(|entry| entry.owed)?;
        let back = self.book.coming(&owed.spec.id) + EARLIER;
        let near = granted + usual.saturating_sub(back);
        Some(Eye { look_at: granted + usual / 2, near, crest: false, room_since: None })
    }

    /// Looks at the work under way.
    pub(super) async fn keep_an_eye(&mut self) {
        let now = self.clock.instant();
        let more = self.forecast().is_some_and(|(_, forecast)| forecast.queued_generations > 0);
        let owed = self.book.owed(now).filter(|_| !more);
        let Some(hold) = &mut self.hold else { return };
        let (Some(mut eye), Some(worker)) = (hold.eye.take(), hold.worker.clone()) else { return };
        let Some(owed) = owed else {
            hold.eye = Some(Eye { look_at: now + SELDOM, room_since: None, ..eye });
            return;
        };
        let Sight::Seen(reading) = self.look().await else { return };
        let held = self.book.held(Some(&reading));
        let amount = |worker: &WorkerId| held.get(worker).copied().unwrap_or_default();
        let peak = self.book.ledger.amounts(&worker).peak;
        eye.crest |= amount(&worker).0 * 4 >= peak.0 * 3;
        let want = self.book.want_back(&owed);
        let need = want.need.saturating_sub(amount(&owed)).saturating_add(self.settings.margin);
        let now = self.clock.instant();
        if eye.crest && self.book.free(&reading) >= need {
            let since = *eye.room_since.get_or_insert(now);
            if now - since >= ROOM {
                let stage = self.book.ledger.after_crest(&worker);
                let at_work = AtWork { worker: &worker, stage: stage.as_ref() };
                if let Err(error) = self.attempt(&want, Cause::Restore, Some(&at_work)).await {
                    tracing::debug!(card = %self.card, worker = %owed, %error, "Not brought back during the last stages");
                }
                return;
            }
        } else {
            eye.room_since = None;
        }
        let often = now >= eye.near || eye.room_since.is_some();
        eye.look_at = now + if often { OFTEN } else { SELDOM.min((eye.near - now).max(OFTEN)) };
        if let Some(hold) = &mut self.hold {
            hold.eye = Some(eye);
        }
    }
}
