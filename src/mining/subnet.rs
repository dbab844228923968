//! Whom to mine for, by the chain: our own registration, and the validators that may be asked.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use super::source::{TaskSource, ValidatorSource};
use crate::chain::{ChainHandle, Link, Metagraph, Neuron, Registration, RegistrationChange, View, is_public};
use crate::dendrite::{AxonAddress, Dendrite};
use crate::primitives::{AddressError, Hotkey, Netuid, Rao, Uid, UnixTime};

/// A validator allowed or denied by hotkey, for ever or until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotkeyRule {
    pub hotkey: Hotkey,
    /// Our clock.
    pub until: Option<UnixTime>,
}

/// A text is no rule about a hotkey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    Hotkey(#[from] AddressError),
    #[error("`{0}` is no time: write it as 2026-12-31T00:00:00Z")]
    Time(String),
}

/// `HOTKEY`, or `HOTKEY until 2026-12-31T00:00:00Z`.
impl FromStr for HotkeyRule {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (hotkey, until) = match text.split_once(" until ") {
            Some((hotkey, time)) => {
                let parsed = humantime::parse_rfc3339(time.trim());
                (hotkey, Some(UnixTime::from_system(parsed.map_err(|_| RuleError::Time(time.to_owned()))?)))
            }
            None => (text, None),
        };
        Ok(Self { hotkey: hotkey.trim().parse()?, until })
    }
}

impl HotkeyRule {
    fn applies(&self, hotkey: &Hotkey, now: UnixTime) -> bool {
        self.hotkey == *hotkey && self.until.is_none_or(|until| now < until)
    }
}

/// Which validators of the metagraph are asked (`[network]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Least `total_stake`.
    pub min_stake: Rao,
    /// Whether addresses outside the public internet are called.
    pub allow_private: bool,
    /// If not empty, only these.
    pub allow: Vec<HotkeyRule>,
    pub deny: Vec<HotkeyRule>,
}

impl Admission {
    /// The neurons of `metagraph` to mine for, ourselves not among them, with their addresses.
    ///
    /// An address that leads into the user's own network is left out: a validator must not point the
    /// agent there.
    pub fn admitted(&self, metagraph: &Metagraph, own: &[Hotkey], now: UnixTime) -> Vec<(AxonAddress, Uid)> {
        let listed =
            |rules: &[HotkeyRule], hotkey: &Hotkey| rules.iter().any(|rule| rule.applies(hotkey, now));
        metagraph
            .validators(self.min_stake, own)
            .filter(|neuron| self.allow.is_empty() || listed(&self.allow, &neuron.hotkey))
            .filter(|neuron| !listed(&self.deny, &neuron.hotkey))
            .filter_map(|neuron| {
                let address = neuron.axon?.address()?;
                let called = self.allow_private || is_public(address.ip());
                called.then_some((AxonAddress { hotkey: neuron.hotkey, address }, neuron.uid))
            })
            .collect()
    }
}

/// Whether we may mine, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// The chain has not answered yet, or is not asked.
    Unknown,
    Registered {
        uid: Uid,
    },
    NotRegistered,
}

/// Our view of the subnet.
pub struct Subnet {
    chain: ChainHandle,
    dendrite: Arc<Dendrite>,
    hotkey: Hotkey,
    /// All that mine in this process: none of them is asked.
    own: Vec<Hotkey>,
    netuid: Netuid,
    admission: Admission,
    /// What the operator types to register this wallet's hotkey.
    how_to_register: String,
    standing: Standing,
    registration: Option<Registration>,
    seen: Option<Arc<Metagraph>>,
    /// Share of the stake of those asked, by hotkey.
    stakes: HashMap<Hotkey, f64>,
    /// The age of the metagraph was told, because the chain did not answer at the start.
    told_age: bool,
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subnet").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl Subnet {
    pub fn new(
        chain: ChainHandle,
        dendrite: Arc<Dendrite>,
        own: Vec<Hotkey>,
        netuid: Netuid,
        admission: Admission,
        how_to_register: String,
    ) -> Self {
        let hotkey = dendrite.hotkey();
        Self {
            chain,
            dendrite,
            hotkey,
            own,
            netuid,
            admission,
            how_to_register,
            standing: Standing::Unknown,
            registration: None,
            seen: None,
            stakes: HashMap::new(),
            told_age: false,
        }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    pub fn view(&self) -> View {
        self.chain.view()
    }

    /// A validator's share of the stake of all that are asked, 0 to 1.
    pub fn stake_share(&self, validator: &Hotkey) -> Option<f64> {
        self.stakes.get(validator).copied()
    }

    /// The subnet owner's hotkey, as the chain says.
    pub fn owner(&self) -> Option<Hotkey> {
        self.seen.as_ref()?.owner_hotkey()
    }

    /// Whether the chain could not be read and nothing is known of an earlier time.
    pub fn is_in_the_dark(&self) -> bool {
        let view = self.chain.view();
        view.metagraph.is_none() && matches!(view.link, Link::Down { .. })
    }

    /// Waits for news from the chain; for ever if there will be none. Cancel-safe.
    pub async fn changed(&mut self) {
        if !self.chain.changed().await {
            std::future::pending::<()>().await;
        }
    }

    /// A validator does not know our hotkey. If the chain does, one of the two is out of date.
    pub fn doubt(&self) {
        if matches!(self.standing, Standing::Registered { .. }) {
            self.chain.sync_now();
        }
    }

    /// Takes in what the chain says now: the sources to mine for if the metagraph is a new one.
    /// Changes of our registration are told here, once each.
    pub fn look(&mut self, now: UnixTime) -> Option<Vec<TaskSource>> {
        let view = self.chain.view();
        self.take_registration(&view);
        let metagraph = view.metagraph?;
        if !self.told_age && self.registration.is_none() && matches!(view.link, Link::Down { .. }) {
            self.told_age = true;
            tracing::warn!(
                age_s = metagraph.age(now).as_secs(),
                block = metagraph.block(),
                "Mining by the metagraph of an earlier run until the chain answers"
            );
        }
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &metagraph)) {
            return None;
        }
        let admitted = self.admission.admitted(&metagraph, &self.own, now);
        if admitted.is_empty() {
            tracing::warn!(
                neurons = metagraph.len(),
                "No validator of the subnet may be asked: look at network.min_stake, allow and deny"
            );
        }
        let coverage = metagraph
            .stake_coverage(|neuron: &Neuron| admitted.iter().any(|(axon, _)| axon.hotkey == neuron.hotkey));
        tracing::debug!(
            block = metagraph.block(),
            age_s = metagraph.age(now).as_secs(),
            validators = admitted.len(),
            coverage,
            "Validators by the chain"
        );
        let stake = |axon: &AxonAddress| metagraph.by_hotkey(&axon.hotkey).map_or(0.0, |n| n.stake.0 as f64);
        let total: f64 = admitted.iter().map(|(axon, _)| stake(axon)).sum();
        self.stakes = admitted.iter().map(|(axon, _)| (axon.hotkey, stake(axon) / total.max(1.0))).collect();
        self.seen = Some(metagraph);
        let source = |(axon, uid)| {
            TaskSource::Validator(ValidatorSource {
                dendrite: Arc::clone(&self.dendrite),
                axon,
                uid: Some(uid),
            })
        };
        Some(admitted.into_iter().map(source).collect())
    }

    fn take_registration(&mut self, view: &View) {
        let Some(after) = view.registration(&self.hotkey) else {
            // Until the first sync the metagraph of an earlier run tells who we were.
            let uid =
                view.metagraph.as_ref().and_then(|m| m.by_hotkey(&self.hotkey)).map(|neuron| neuron.uid);
            self.standing = uid.map_or(Standing::Unknown, |uid| Standing::Registered { uid });
            return;
        };
        let change =
            RegistrationChange::between(self.registration.as_ref(), &after, view.metagraph.as_deref());
        let first = self.registration.is_none();
        self.registration = Some(after);
        self.standing = match after {
            Registration::Registered { uid, .. } => Standing::Registered { uid },
            Registration::NotRegistered { .. } => Standing::NotRegistered,
        };
        let netuid = self.netuid;
        match change {
            RegistrationChange::Registered { uid } => {
                tracing::info!(%uid, %netuid, "This hotkey is registered on the subnet");
            }
            RegistrationChange::Moved { from, to } => {
                tracing::warn!(%from, %to, %netuid, "This hotkey lost its uid and was registered again");
            }
            RegistrationChange::Deregistered { uid, holder } => {
                let holder = holder.map_or_else(|| "nobody yet".to_owned(), |hotkey| hotkey.to_string());
                tracing::error!(
                    alarm = "deregistered", %uid, %netuid, holder,
                    "This hotkey was deregistered; no task is pulled until it is registered again: {}",
                    self.how_to_register
                );
            }
            RegistrationChange::Unchanged if first => {
                tracing::warn!(
                    hotkey = %self.hotkey, %netuid,
                    "This hotkey is not registered on the subnet; waiting, and looking again every few minutes. To register: {}",
                    self.how_to_register
                );
            }
            RegistrationChange::Unchanged => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{AxonInfo, Parts};
    use crate::wallet::HotkeyPair;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(name: &str) -> Hotkey {
        *HotkeyPair::dev(name).hotkey()
    }

    fn neuron(uid: u16, name: &str, stake: u64, ip: [u8; 4]) -> Neuron {
        let ip = u128::from(u32::from_be_bytes(ip));
        let axon = AxonInfo { block: 1, version: 1, ip, port: 8_091, ip_type: 4, protocol: 4 };
        Neuron {
            uid: Uid(uid),
            hotkey: key(name),
            coldkey: None,
            axon: (ip != 0).then_some(axon),
            active: true,
            validator_permit: true,
            stake: Rao(stake),
            incentive: 0,
            emission: Rao(0),
            last_update: 0,
            block_at_registration: None,
        }
    }

    fn metagraph() -> Metagraph {
        Metagraph::new(Parts {
            netuid: Netuid(17),
            block: 1,
            synced_at: NOW,
            owner_hotkey: None,
            immunity_period: None,
            neurons: vec![
                neuron(0, "a", 1_000, [1, 2, 3, 4]),
                neuron(1, "b", 999, [1, 2, 3, 5]),
                neuron(2, "c", 5_000, [192, 168, 1, 1]),
                neuron(3, "d", 5_000, [0, 0, 0, 0]),
                neuron(4, "us", 5_000, [1, 2, 3, 6]),
                neuron(5, "e", 2_000, [1, 2, 3, 7]),
            ],
        })
        .unwrap()
    }

    fn admitted(admission: &Admission) -> Vec<u16> {
        admission.admitted(&metagraph(), &[key("us")], NOW).into_iter().map(|(_, uid)| uid.0).collect()
    }

    fn admission() -> Admission {
        Admission { min_stake: Rao(1_000), allow_private: false, allow: Vec::new(), deny: Vec::new() }
    }

    #[test]
    fn stake_address_and_ourselves_decide_who_is_asked() {
        assert_eq!(admitted(&admission()), [0, 5]);
        assert_eq!(admitted(&Admission { allow_private: true, ..admission() }), [0, 2, 5]);
    }

    #[test]
    fn rules_by_hotkey_end_at_their_time() {
        let rule = |name: &str, until: Option<UnixTime>| HotkeyRule { hotkey: key(name), until };
        let deny = |until| Admission { deny: vec![rule("a", until)], ..admission() };
        assert_eq!(admitted(&deny(None)), [5]);
        assert_eq!(admitted(&deny(Some(NOW))), [0, 5]);
        assert_eq!(admitted(&Admission { allow: vec![rule("e", None)], ..admission() }), [5]);
    }

    #[test]
    fn a_rule_is_a_hotkey_and_perhaps_a_time() {
        let hotkey = key("a");
        assert_eq!(hotkey.to_string().parse(), Ok(HotkeyRule { hotkey, until: None }));
        let text = format!("{hotkey} until 2027-01-15T08:00:00Z");
        assert_eq!(text.parse(), Ok(HotkeyRule { hotkey, until: Some(UnixTime::from_secs(1_800_000_000)) }));
        assert!(format!("{hotkey} until soon").parse::<HotkeyRule>().is_err());
        assert!("5X".parse::<HotkeyRule>().is_err());
    }
}
