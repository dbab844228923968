//! Everything that can be wrong with a wallet, looked at one by one.

use std::fmt;

use super::{
    Encryption, HotkeyPair, Keyfile, KeyfileError, PasswordSources, Signable, WalletError, WalletSettings,
    WalletWarning, is_throwaway, verify,
};

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The names make a path.
    Names,
    /// The key file is there and can be read.
    Readable,
    /// Nobody else can get at the files with secrets.
    Permissions,
    /// How the key file is kept.
    Encryption,
    /// It gives a key with a secret.
    Key,
    /// A test message, signed and verified.
    Signature,
    /// The address beside the secret.
    Address,
    /// The hotkey's public file.
    PublicFile,
    /// The coldkey's public file.
    Coldkey,
    /// Whether the secret is a published one.
    Throwaway,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Names => "names",
            Self::Readable => "readable",
            Self::Permissions => "permissions",
            Self::Encryption => "encryption",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Address => "address",
            Self::PublicFile => "public file",
            Self::Coldkey => "coldkey",
            Self::Throwaway => "throwaway",
        })
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Mining works; somebody should have a look.
    Warn,
    /// This wallet cannot mine.
    Fail,
}

/// One thing looked at; the message says what to do unless it passed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub check: Check,
    pub verdict: Verdict,
    pub message: String,
}

impl Finding {
    fn pass(check: Check, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Pass, message: message.into() }
    }

    fn warn(check: Check, message: impl fmt::Display) -> Self {
        Self { check, verdict: Verdict::Warn, message: message.to_string() }
    }

    fn fail(check: Check, message: impl fmt::Display) -> Self {
        Self { check, verdict: Verdict::Fail, message: message.to_string() }
    }
}

/// Looks at everything that can be looked at, in a fixed order. What cannot be looked at because
/// something before it failed is left out.
///
/// Blocking, as [`super::Wallet::open`] is.
pub fn inspect(settings: &WalletSettings, passwords: &PasswordSources<'_>) -> Vec<Finding> {
    let paths = match settings.paths() {
        Ok(paths) => paths,
        Err(error) => return vec![Finding::fail(Check::Names, error)],
    };
    let mut findings = vec![Finding::pass(Check::Names, paths.hotkey.display().to_string())];

    let pair = match Keyfile::read(&paths.hotkey) {
        Ok(keyfile) => inspect_keyfile(settings, &keyfile, passwords, &mut findings),
        Err(error @ KeyfileError::Decryption { .. }) => {
            findings.push(Finding::pass(Check::Readable, "the key file can be read"));
            findings.push(Finding::fail(Check::Encryption, error));
            None
        }
        Err(error) => {
            findings.push(Finding::fail(Check::Readable, error));
            None
        }
    };

    let public = match &pair {
        Some(pair) => paths.check_hotkey_public(pair.hotkey()),
        None => paths.read_hotkey_public(),
    };
    findings.push(match public {
        Ok(Some(public)) => Finding::pass(Check::PublicFile, public.to_ss58()),
        Ok(None) => Finding::pass(Check::PublicFile, "there is none; older wallets have none"),
        Err(warning) => Finding::warn(Check::PublicFile, warning),
    });
    findings.push(match paths.read_coldkey_public() {
        Ok(Some(coldkey)) => Finding::pass(Check::Coldkey, coldkey.to_ss58()),
        Ok(None) => Finding::pass(Check::Coldkey, "there is no coldkeypub.txt, and mining needs none"),
        Err(warning) => Finding::warn(Check::Coldkey, warning),
    });
    if let Some(pair) = &pair {
        findings.push(if is_throwaway(pair.hotkey()) {
            Finding::warn(
                Check::Throwaway,
                format!(
                    "the secret of {} is published: good for the development network, refused on public \
                     ones; never fund it, and name your own hotkey to go live",
                    pair.hotkey()
                ),
            )
        } else {
            Finding::pass(Check::Throwaway, "not one of the published keys")
        });
    }
    findings
}

fn inspect_keyfile(
    settings: &WalletSettings,
    keyfile: &Keyfile,
    passwords: &PasswordSources<'_>,
    findings: &mut Vec<Finding>,
) -> Option<HotkeyPair> {
    findings.push(Finding::pass(Check::Readable, "the key file can be read"));
    let opened = settings.open_key(keyfile, passwords);

    let hotkey = opened.as_ref().ok().map(|key| crate::primitives::Hotkey::from_bytes(*key.public_key()));
    let exposed = settings.exposed(keyfile, hotkey.as_ref());
    if exposed.is_empty() {
        findings.push(Finding::pass(Check::Permissions, format!("mode {:04o}", keyfile.mode())));
    }
    findings.extend(exposed.iter().map(|warning| Finding::warn(Check::Permissions, warning)));

    let encryption = keyfile.encryption();
    let key = match opened {
        Ok(key) => {
            let state = if encryption == Encryption::None { "" } else { ", and the password opens it" };
            findings.push(Finding::pass(Check::Encryption, format!("{encryption}{state}")));
            key
        }
        Err(
            error @ (WalletError::Password(_)
            | WalletError::NoHome { .. }
            | WalletError::Keyfile(KeyfileError::Decryption { .. })),
        ) => {
            findings.push(Finding::fail(Check::Encryption, error));
            return None;
        }
        Err(error) => {
            findings.push(Finding::pass(Check::Encryption, encryption.to_string()));
            findings.push(Finding::fail(Check::Key, error));
            return None;
        }
    };

    let address = key.address();
    let stated = key.conflicting_address().map(str::to_owned);
    let Some(pair) = key.into_pair() else {
        let error = WalletError::PublicOnly { path: keyfile.path().to_path_buf(), address };
        findings.push(Finding::fail(Check::Key, error));
        return None;
    };
    findings.push(Finding::pass(Check::Key, address));
    findings.push(check_signature(&pair));
    findings.push(match stated {
        None => Finding::pass(Check::Address, "the address beside the secret, if any, is its own"),
        Some(stated) => {
            let path = keyfile.path().to_path_buf();
            let hotkey = *pair.hotkey();
            Finding::warn(Check::Address, WalletWarning::AddressDisagrees { path, stated, hotkey })
        }
    });
    Some(pair)
}

/// Signs a request to itself that no axon would take: its nonce is decades old.
fn check_signature(pair: &HotkeyPair) -> Finding {
    let hotkey = pair.hotkey();
    let message = Signable::Synapse { nonce: 0, dendrite: hotkey, axon: hotkey, uuid: "", body_hash: "" };
    if verify(&message, &pair.sign(&message), hotkey) {
        Finding::pass(Check::Signature, "a test message was signed and verified")
    } else {
        Finding::fail(
            Check::Signature,
            "a signature of this key does not verify: the secret and its public half do not fit; restore \
             the key file from its backup",
        )
    }
}
