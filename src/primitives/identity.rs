//! Who is who: keys, subnet, neurons, cards, sources of tasks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sp_core::crypto::{AccountId32, Ss58AddressFormat, Ss58Codec};

/// The SS58 format every Bittensor account uses (chain/README.md, "Units").
const SS58_FORMAT: u16 = 42;

/// A text is not the address of an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("not an SS58 address: {0}")]
    Malformed(String),
    #[error("the address is of SS58 format {0}, Bittensor accounts are of format 42")]
    ForeignFormat(u16),
}

fn parse_ss58(text: &str) -> Result<[u8; 32], AddressError> {
    // An address has 48 characters or fewer; the decoder is never shown more than a stranger may send.
    if text.len() > 64 {
        return Err(AddressError::Malformed("longer than any address".into()));
    }
    let (account, format) =
        AccountId32::from_ss58check_with_version(text).map_err(|e| AddressError::Malformed(e.to_string()))?;
    let format = u16::from(format);
    if format != SS58_FORMAT {
        return Err(AddressError::ForeignFormat(format));
    }
    Ok(account.into())
}

macro_rules! account {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From the 32 bytes of a public key.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the public key.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The address, SS58 format 42.
            pub fn to_ss58(&self) -> String {
                AccountId32::from(self.0).to_ss58check_with_version(Ss58AddressFormat::custom(SS58_FORMAT))
            }
        }

        impl FromStr for $name {
            type Err = AddressError;
            fn from_str(text: &str) -> Result<Self, AddressError> {
                parse_ss58(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_ss58())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.to_ss58())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_ss58())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

account! {
    /// The key a neuron signs with on the subnet; shown as its SS58 address.
    Hotkey
}
account! {
    /// The key that owns a hotkey. Only its public half ever appears here.
    Coldkey
}

/// Number of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netuid(pub u16);

impl fmt::Display for Netuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a neuron in its subnet. Uids are recycled: a neuron is *known* by its hotkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One accelerator: the machine it is in and the driver's own id of it, never an index
/// (`CUDA_VISIBLE_DEVICES` renumbers indexes per process, workers.md section 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CardId {
    pub host: String,
    pub uuid: String,
}

impl fmt::Display for CardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uuid)
    }
}

/// Where tasks come from. Part of every key in the store, so that a second kind of source can never
/// be confused with a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceId {
    /// A validator of the subnet, known by its hotkey.
    Validator(Hotkey),
}

impl SourceId {
    /// Who it is, without the kind: for log lines.
    pub fn name(&self) -> String {
        match self {
            Self::Validator(hotkey) => hotkey.to_ss58(),
        }
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Validator(hotkey) => write!(f, "validator:{hotkey}"),
        }
    }
}

impl FromStr for SourceId {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            Some(("validator", hotkey)) => Ok(Self::Validator(hotkey.parse()?)),
            _ => Err(AddressError::Malformed("unknown kind of task source".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn an_address_survives_the_round_trip() {
        let hotkey: Hotkey = ALICE.parse().unwrap();
        assert_eq!(hotkey.to_string(), ALICE);
        assert_eq!(serde_json::to_string(&hotkey).unwrap(), format!("\"{ALICE}\""));
    }

    #[test]
    fn a_damaged_or_foreign_address_is_refused() {
        let mut damaged = ALICE.to_string();
        damaged.replace_range(10..11, "Z");
        assert!(matches!(damaged.parse::<Hotkey>(), Err(AddressError::Malformed(_))));
        // The same public key in Polkadot's format.
        let foreign = AccountId32::from(*ALICE.parse::<Hotkey>().unwrap().as_bytes())
            .to_ss58check_with_version(Ss58AddressFormat::custom(0));
        assert_eq!(foreign.parse::<Hotkey>(), Err(AddressError::ForeignFormat(0)));
        assert!("5".repeat(10_000).parse::<Hotkey>().is_err());
    }

    #[test]
    fn a_source_survives_the_round_trip() {
        let source = SourceId::Validator(ALICE.parse().unwrap());
        assert_eq!(source.to_string().parse::<SourceId>().unwrap(), source);
        assert!("elsewhere:5".parse::<SourceId>().is_err());
    }
}
