//! Key files of bittensor-wallet 4.0.1, read as the library reads them (vectors/wallets README).
//!
//! Where the library crashes or blames a password for a damaged file, this says what is wrong.
//! No message ever repeats what the file holds, an address apart.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use sp_core::Pair as _;
use sp_core::crypto::{AccountId32, Ss58Codec};
use zeroize::{Zeroize, Zeroizing};

use super::envelope::{DecryptionFault, Encryption, Envelope, SecretBox, Vault};
use super::hex::{self, HexFault};
use super::secret_file::{self, ReadFault};
use super::{HotkeyPair, Password};
use crate::primitives::Hotkey;

/// Why a key file gives no key. Every message names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KeyfileError {
    #[error(
        "there is no key file {}; check wallet.path, wallet.name and the hotkey's name, or create it with \
         `btcli wallet new-hotkey`",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("the key file {} has no read permission at all; run `chmod 600` on it", path.display())]
    Unreadable { path: PathBuf },
    #[error("the key file {} cannot be read: {fault}", path.display())]
    Read { path: PathBuf, fault: ReadFault },
    #[error(
        "the key file {} is not one JSON object of strings ({fault}); restore it from its backup",
        path.display()
    )]
    NotJsonOfStrings { path: PathBuf, fault: JsonFault },
    #[error(
        "the key file {} has none of secretPhrase, secretSeed, privateKey and ss58Address; restore it from \
         its backup",
        path.display()
    )]
    NoUsableField { path: PathBuf },
    #[error(
        "secretPhrase in the key file {} is not a mnemonic: {fault}; restore the file from its backup or run \
         `btcli wallet regen-hotkey`",
        path.display()
    )]
    BadMnemonic { path: PathBuf, fault: MnemonicFault },
    #[error(
        "{field} in the key file {} is not a key: {fault}; restore the file from its backup or run `btcli \
         wallet regen-hotkey`",
        path.display()
    )]
    BadKey { path: PathBuf, field: SecretField, fault: SecretFault },
    #[error("ss58Address in the key file {} is not an address ({fault}); correct it", path.display())]
    BadAddress { path: PathBuf, fault: String },
    #[error("the key file {} cannot be opened: {fault}", path.display())]
    Decryption { path: PathBuf, fault: DecryptionFault },
}

/// Where JSON goes wrong; the parser's own words could quote a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    #[error("it does not parse at line {line}, column {column}")]
    Syntax { line: usize, column: usize },
    #[error("it ends too early")]
    Ends,
    #[error("line {line}, column {column} holds something that is neither a string nor null")]
    NotAString { line: usize, column: usize },
}

/// What keeps a text from being a mnemonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MnemonicFault {
    #[error("it has {0} words, and 12, 15, 18, 21 and 24 are possible")]
    WordCount(usize),
    #[error("it has a derivation path, which key files do not carry")]
    DerivationPath,
    #[error("it has capital letters, and the words are written in lower case")]
    Capitals,
    #[error("a word is not in the English list, or the checksum does not fit (a wrong or swapped word)")]
    WordsOrChecksum,
}

/// The two fields that hold key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretField {
    SecretSeed,
    PrivateKey,
}

impl fmt::Display for SecretField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecretSeed => "secretSeed",
            Self::PrivateKey => "privateKey",
        })
    }
}

/// What keeps a text from being key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error("{0}")]
    Hex(HexFault),
    #[error("it is {0} bytes long, and 32 and 64 are possible")]
    Length(usize),
    #[error("its scalar is not canonical")]
    NotCanonical,
}

/// A key file that was read, and is still closed.
pub struct Keyfile {
    path: PathBuf,
    mode: u32,
    encryption: Encryption,
    content: Content,
}

enum Content {
    Plain(Zeroizing<Vec<u8>>),
    Sealed(Envelope),
}

impl Keyfile {
    /// Reads at most 1 MiB, and takes an encrypted file apart without opening it.
    ///
    /// A path is used as given (`~` is the caller's to expand).
    pub fn read(path: &Path) -> Result<Self, KeyfileError> {
        let file = secret_file::read(path).map_err(|fault| {
            let path = path.to_path_buf();
            match fault {
                ReadFault::Missing => KeyfileError::Missing { path },
                ReadFault::Unreadable => KeyfileError::Unreadable { path },
                fault => KeyfileError::Read { path, fault },
            }
        })?;
        Self::parse(path, file.mode, file.bytes)
            .map_err(|fault| KeyfileError::Decryption { path: path.to_path_buf(), fault })
    }

    fn parse(path: &Path, mode: u32, bytes: Zeroizing<Vec<u8>>) -> Result<Self, DecryptionFault> {
        let encryption = Encryption::of(&bytes);
        let content = match encryption {
            Encryption::None => Content::Plain(bytes),
            Encryption::Nacl => Content::Sealed(Envelope::Nacl(SecretBox::parse(&bytes)?)),
            Encryption::AnsibleVault => Content::Sealed(Envelope::Vault(Vault::parse(&bytes)?)),
            Encryption::Fernet => return Err(DecryptionFault::Fernet),
        };
        Ok(Self { path: path.to_path_buf(), mode, encryption, content })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Permission bits, as `chmod` takes them.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// The key inside. The password is not looked at when the file is not encrypted.
    ///
    /// Blocking: a `$NACL` file takes seconds and 512 MiB, with a wrong password too.
    pub fn open(&self, password: Option<&Password>) -> Result<Key, KeyfileError> {
        match &self.content {
            Content::Plain(bytes) => parse_key(&self.path, bytes),
            Content::Sealed(envelope) => {
                let opened =
                    password.ok_or(DecryptionFault::NoPassword).and_then(|password| envelope.open(password));
                let bytes =
                    opened.map_err(|fault| KeyfileError::Decryption { path: self.path.clone(), fault })?;
                parse_key(&self.path, &bytes)
            }
        }
    }
}

impl fmt::Debug for Keyfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyfile")
            .field("path", &self.path)
            .field("encryption", &self.encryption)
            .finish_non_exhaustive()
    }
}

/// The key of a key file: one that signs, or its public half alone.
#[derive(Debug)]
pub struct Key {
    half: Half,
    stated: Option<StatedAddress>,
}

/// `ss58Address` as the file has it. A text that is no address is not kept: it may be anything, a
/// secret in the wrong field included.
#[derive(Debug)]
enum StatedAddress {
    Address { text: String, public: [u8; 32] },
    NotAnAddress,
}

#[derive(Debug)]
enum Half {
    Secret(HotkeyPair),
    Public([u8; 32]),
}

impl Key {
    /// The 32 bytes of the public key.
    pub fn public_key(&self) -> &[u8; 32] {
        match &self.half {
            Half::Secret(pair) => pair.hotkey().as_bytes(),
            Half::Public(key) => key,
        }
    }

    pub fn can_sign(&self) -> bool {
        matches!(self.half, Half::Secret(_))
    }

    /// The address as the library shows it: of format 42, unless the file holds nothing but an
    /// address of another format.
    pub fn address(&self) -> String {
        match (&self.half, &self.stated) {
            (Half::Public(_), Some(StatedAddress::Address { text, .. })) => text.clone(),
            _ => Hotkey::from_bytes(*self.public_key()).to_ss58(),
        }
    }

    /// What stands as the address beside a secret, when it is not the secret's; the library does not
    /// notice.
    pub fn conflicting_address(&self) -> Option<&str> {
        match self.stated.as_ref()? {
            StatedAddress::Address { public, .. } if public == self.public_key() => None,
            StatedAddress::Address { text, .. } => Some(text),
            StatedAddress::NotAnAddress => Some("something that is no address"),
        }
    }

    /// The half that signs, if it is there.
    pub fn into_pair(self) -> Option<HotkeyPair> {
        match self.half {
            Half::Secret(pair) => Some(pair),
            Half::Public(_) => None,
        }
    }
}

fn parse_key(path: &Path, json: &[u8]) -> Result<Key, KeyfileError> {
    let path = || path.to_path_buf();
    let fields: Fields = serde_json::from_slice(json)
        .map_err(|error| KeyfileError::NotJsonOfStrings { path: path(), fault: JsonFault::from(&error) })?;
    let key_from = |field, text: &str| {
        pair_from_hex(text).map_err(|fault| KeyfileError::BadKey { path: path(), field, fault })
    };

    // The first field that is there decides, whether it is any good or not.
    let half = if let Some(phrase) = &fields.secret_phrase {
        let pair =
            pair_from_phrase(phrase).map_err(|fault| KeyfileError::BadMnemonic { path: path(), fault })?;
        Half::Secret(pair)
    } else if let Some(text) = &fields.secret_seed {
        Half::Secret(key_from(SecretField::SecretSeed, text)?)
    } else if let Some(text) = &fields.private_key {
        Half::Secret(key_from(SecretField::PrivateKey, text)?)
    } else if let Some(address) = &fields.ss58_address {
        let public =
            public_key_of(address).map_err(|fault| KeyfileError::BadAddress { path: path(), fault })?;
        Half::Public(public)
    } else {
        return Err(KeyfileError::NoUsableField { path: path() });
    };
    let stated = fields.ss58_address.map(|text| match public_key_of(&text) {
        Ok(public) => StatedAddress::Address { text: text.to_string(), public },
        Err(_) => StatedAddress::NotAnAddress,
    });
    Ok(Key { half, stated })
}

fn pair_from_phrase(phrase: &str) -> Result<HotkeyPair, MnemonicFault> {
    // The seed comes from the entropy, not from the words, which is what sp-core does too.
    let (_, mut seed) = sp_core::sr25519::Pair::from_phrase(phrase, None).map_err(|_| fault_of(phrase))?;
    let pair = HotkeyPair::from_mini_secret(&seed);
    seed.zeroize();
    Ok(pair)
}

fn fault_of(phrase: &str) -> MnemonicFault {
    let words = phrase.split_whitespace().count();
    if phrase.contains('/') {
        MnemonicFault::DerivationPath
    } else if !matches!(words, 12 | 15 | 18 | 21 | 24) {
        MnemonicFault::WordCount(words)
    } else if phrase.contains(char::is_uppercase) {
        MnemonicFault::Capitals
    } else {
        MnemonicFault::WordsOrChecksum
    }
}

fn pair_from_hex(text: &str) -> Result<HotkeyPair, SecretFault> {
    // The library strips every leading `0x` there is, and no `0X`.
    let digits = text.trim_start_matches("0x");
    let mut bytes = Zeroizing::new([0; 64]);
    match hex::decode_exactly(digits, &mut *bytes) {
        Ok(()) => return HotkeyPair::from_expanded(&bytes).ok_or(SecretFault::NotCanonical),
        Err(HexFault::Length(32)) => {}
        Err(HexFault::Length(length)) => return Err(SecretFault::Length(length)),
        Err(fault) => return Err(SecretFault::Hex(fault)),
    }
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_exactly(digits, &mut *seed).map_err(SecretFault::Hex)?;
    Ok(HotkeyPair::from_mini_secret(&seed))
}

/// Public key of an address of any SS58 format.
fn public_key_of(address: &str) -> Result<[u8; 32], String> {
    // An address has 50 characters at most, and decoding takes the square of the length.
    if address.len() > 64 {
        return Err("longer than any address".into());
    }
    let (account, _) =
        AccountId32::from_ss58check_with_version(address).map_err(|error| error.to_string())?;
    Ok(account.into())
}

impl From<&serde_json::Error> for JsonFault {
    fn from(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => Self::NotAString { line, column },
            serde_json::error::Category::Eof => Self::Ends,
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                Self::Syntax { line, column }
            }
        }
    }
}

/// The fields that decide. Others are read, because they too must be strings or null, and dropped.
#[derive(Default)]
struct Fields {
    secret_phrase: Text,
    secret_seed: Text,
    private_key: Text,
    ss58_address: Text,
}

type Text = Option<Zeroizing<String>>;

enum FieldName {
    SecretPhrase,
    SecretSeed,
    PrivateKey,
    Ss58Address,
    Other,
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = FieldName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
                Ok(match name {
                    "secretPhrase" => FieldName::SecretPhrase,
                    "secretSeed" => FieldName::SecretSeed,
                    "privateKey" => FieldName::PrivateKey,
                    "ss58Address" => FieldName::Ss58Address,
                    _ => FieldName::Other,
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

struct FieldText(Text);

impl<'de> Deserialize<'de> for FieldText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrNull;
        impl Visitor<'_> for StringOrNull {
            type Value = FieldText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }
            fn visit_str<E>(self, text: &str) -> Result<FieldText, E> {
                Ok(FieldText(Some(Zeroizing::new(text.to_owned()))))
            }
            fn visit_unit<E>(self) -> Result<FieldText, E> {
                Ok(FieldText(None))
            }
        }
        deserializer.deserialize_any(StringOrNull)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, FieldText(text))) = map.next_entry()? {
                    match name {
                        FieldName::SecretPhrase => fields.secret_phrase = text,
                        FieldName::SecretSeed => fields.secret_seed = text,
                        FieldName::PrivateKey => fields.private_key = text,
                        FieldName::Ss58Address => fields.ss58_address = text,
                        FieldName::Other => {}
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
