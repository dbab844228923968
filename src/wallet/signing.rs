//! The hotkey, the closed list of what it signs, and verification.
//!
//! sr25519 (schnorrkel) with the signing context `substrate` (vectors/README, signatures.json).
//! Signing is randomised: two signatures of one message differ and both verify. A stolen hotkey can
//! speak for the miner, so nothing here hands it raw bytes to sign: [`Signable`] is everything it
//! will ever say. Limit: the copies a CPU leaves in registers and on the stack while it computes are
//! out of our reach; every buffer we own is wiped.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, PublicKey, SecretKey};
use sp_core::{Blake2Hasher, Hasher};
use zeroize::Zeroizing;

use super::hex::{self, HexFault};
use crate::primitives::Hotkey;

/// Every sr25519 signature of a substrate account is made in this context (vectors/README).
const SIGNING_CONTEXT: &[u8] = b"substrate";

/// What a miner declares with each submission; the validator signs nothing for us, it rebuilds this
/// text (vectors/README, `license_declaration` in signatures.json). One line, no full stop.
pub const LICENSE_DECLARATION: &str = "I, as a miner on SN17, have obtained all licenses, rights and \
    consents required to use, reproduce, modify, display, distribute and make available my submitted \
    results to this subnet and its end users";

/// Everything the hotkey can sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signable<'a> {
    /// The header of a request to an axon: `{nonce}.{dendrite}.{axon}.{uuid}.{body_hash}`
    /// (vectors/synapse README).
    Synapse {
        /// Nanoseconds of unix time, never repeated for one `uuid`.
        nonce: u64,
        /// Who signs.
        dendrite: &'a Hotkey,
        /// Who is asked.
        axon: &'a Hotkey,
        /// The dendrite's id of itself.
        uuid: &'a str,
        /// SHA3-256 of the body's hashed fields, lower-case hex.
        body_hash: &'a str,
    },
    /// A result: declaration, time, prompt, validator, miner, with nothing between
    /// (vectors/README, kind `submit`).
    Submission {
        /// Nanoseconds of unix time; the same number goes into the body.
        submit_time: u64,
        /// The prompt as pulled; of an image, its whole base64 text.
        prompt: &'a str,
        /// Whose task it is.
        validator: &'a Hotkey,
        /// Who signs.
        miner: &'a Hotkey,
    },
}

impl Signable<'_> {
    /// The text whose UTF-8 bytes are signed.
    pub fn message(&self) -> String {
        match self {
            Self::Synapse { nonce, dendrite, axon, uuid, body_hash } => {
                format!("{nonce}.{dendrite}.{axon}.{uuid}.{body_hash}")
            }
            Self::Submission { submit_time, prompt, validator, miner } => {
                format!("{LICENSE_DECLARATION}{submit_time}{prompt}{validator}{miner}")
            }
        }
    }
}

/// A text is not a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature does not start with 0x")]
    NoPrefix,
    #[error("the signature is not 64 bytes of hexadecimal: {0}")]
    Hex(HexFault),
    #[error("the signature is not standard base64 with padding")]
    Base64,
    #[error("the signature is not 64 bytes long")]
    Length,
}

/// An sr25519 signature as it travels. That it has 64 bytes says nothing about whether it verifies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Hex with `0x`, lower case: the form of the synapse header.
    pub fn to_hex_0x(&self) -> String {
        format!("0x{}", hex::encode(&self.0))
    }

    /// Standard base64 with padding: the form inside a submission.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads `0x` and 128 hex digits of either case; like the library, insists on the `0x`.
    pub fn from_hex_0x(text: &str) -> Result<Self, SignatureError> {
        let digits = text.strip_prefix("0x").ok_or(SignatureError::NoPrefix)?;
        let mut bytes = [0; 64];
        hex::decode_exactly(digits, &mut bytes).map_err(SignatureError::Hex)?;
        Ok(Self(bytes))
    }

    /// Reads standard base64: padding required, no other characters, no stray bits at the end.
    pub fn from_base64(text: &str) -> Result<Self, SignatureError> {
        // 64 bytes are always 88 characters; nothing longer is shown to the decoder.
        if text.len() > 88 {
            return Err(SignatureError::Length);
        }
        let bytes = STANDARD.decode(text).map_err(|_| SignatureError::Base64)?;
        Ok(Self(bytes.try_into().map_err(|_| SignatureError::Length)?))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.to_hex_0x())
    }
}

/// Whether `signature` is `signer`'s over `message`.
///
/// Follows bittensor-wallet 4.0.1: the bare message first, then the same message inside
/// `<Bytes>` and `</Bytes>`, as browser wallets sign it. It does not go the other way.
pub fn verify(message: &Signable<'_>, signature: &Signature, signer: &Hotkey) -> bool {
    verify_message(message.message().as_bytes(), signature, signer)
}

/// [`verify`] for a message that is not one of ours; verifying can do no harm.
pub fn verify_message(message: &[u8], signature: &Signature, signer: &Hotkey) -> bool {
    let Ok(key) = PublicKey::from_bytes(signer.as_bytes()) else { return false };
    let Ok(signature) = schnorrkel::Signature::from_bytes(&signature.0) else { return false };
    let verifies = |message: &[u8]| key.verify_simple(SIGNING_CONTEXT, message, &signature).is_ok();
    verifies(message) || verifies(&[b"<Bytes>", message, b"</Bytes>"].concat())
}

/// A hotkey that can sign. Not `Clone` and not serialisable; wiped when dropped; shows only its
/// address.
pub struct HotkeyPair {
    // Boxed, so that moving the pair moves a pointer and leaves no copy of the secret behind.
    pair: Box<Keypair>,
    hotkey: Hotkey,
}

impl HotkeyPair {
    /// Expands a mini secret in ed25519 mode, as every substrate wallet does.
    ///
    /// For keys of a development network. Real keys are read from key files ([`super::Keyfile`]).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self::from_mini_secret(&Zeroizing::new(seed))
    }

    /// The key called `name` on the embedded development network: its seed is the blake2b-256 of
    /// `sn17-devnet/NAME`, so everybody knows its secret.
    pub fn dev(name: &str) -> Self {
        Self::from_seed(Blake2Hasher::hash(format!("sn17-devnet/{name}").as_bytes()).to_fixed_bytes())
    }

    pub(super) fn from_mini_secret(seed: &[u8; 32]) -> Self {
        match MiniSecretKey::from_bytes(seed) {
            Ok(mini) => Self::from_pair(mini.expand_to_keypair(ExpansionMode::Ed25519)),
            Err(_) => unreachable!("every 32 bytes are a mini secret"),
        }
    }

    /// From the 32-byte scalar and the 32-byte nonce half; `None` when the scalar is not canonical.
    pub(super) fn from_expanded(bytes: &[u8; 64]) -> Option<Self> {
        let secret = SecretKey::from_bytes(bytes).ok()?;
        Some(Self::from_pair(secret.to_keypair()))
    }

    fn from_pair(pair: Keypair) -> Self {
        let hotkey = Hotkey::from_bytes(pair.public.to_bytes());
        Self { pair: Box::new(pair), hotkey }
    }

    /// The public half.
    pub const fn hotkey(&self) -> &Hotkey {
        &self.hotkey
    }

    /// Signs the message's text as its bare UTF-8 bytes. Takes some 20 µs.
    pub fn sign(&self, message: &Signable<'_>) -> Signature {
        Signature(self.pair.sign_simple(SIGNING_CONTEXT, message.message().as_bytes()).to_bytes())
    }
}

impl fmt::Debug for HotkeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HotkeyPair({})", self.hotkey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_for_its_message_and_key_only() {
        let (miner, validator) = (HotkeyPair::dev("miner"), HotkeyPair::dev("validator"));
        let message = Signable::Submission {
            submit_time: 7,
            prompt: "a red cube",
            validator: validator.hotkey(),
            miner: miner.hotkey(),
        };
        let signature = miner.sign(&message);
        assert!(verify(&message, &signature, miner.hotkey()));
        assert!(!verify(&message, &signature, validator.hotkey()));
        assert!(!verify_message(b"a red cube", &signature, miner.hotkey()));
        assert_ne!(signature, miner.sign(&message), "signing is randomised");
    }

    #[test]
    fn a_wrapped_signature_is_accepted_and_unwrapping_is_not_tried() {
        let miner = HotkeyPair::dev("miner");
        let sign = |bytes: &[u8]| Signature(miner.pair.sign_simple(SIGNING_CONTEXT, bytes).to_bytes());
        assert!(verify_message(b"hello", &sign(b"<Bytes>hello</Bytes>"), miner.hotkey()));
        assert!(!verify_message(b"<Bytes>hello</Bytes>", &sign(b"hello"), miner.hotkey()));
        let twice = sign(b"<Bytes><Bytes>hello</Bytes></Bytes>");
        assert!(!verify_message(b"hello", &twice, miner.hotkey()));
    }

    #[test]
    fn a_signature_survives_both_texts_and_sloppy_ones_are_refused() {
        let signature = Signature(std::array::from_fn(|i| i as u8));
        assert_eq!(Signature::from_hex_0x(&signature.to_hex_0x()), Ok(signature));
        assert_eq!(Signature::from_base64(&signature.to_base64()), Ok(signature));
        let upper = signature.to_hex_0x().to_uppercase().replacen("0X", "0x", 1);
        assert_eq!(Signature::from_hex_0x(&upper), Ok(signature));

        let bare = hex::encode(&signature.0);
        assert_eq!(Signature::from_hex_0x(&bare), Err(SignatureError::NoPrefix));
        assert_eq!(
            Signature::from_hex_0x(&format!("0x{bare}00")),
            Err(SignatureError::Hex(HexFault::Length(65)))
        );
        let text = signature.to_base64();
        for sloppy in [text.trim_end_matches('=').to_string(), format!("{text}\n"), text.replace('A', " ")] {
            assert!(Signature::from_base64(&sloppy).is_err(), "{sloppy:?}");
        }
        assert_eq!(Signature::from_base64(&STANDARD.encode([0; 63])), Err(SignatureError::Length));
    }

    #[test]
    fn a_scalar_that_is_not_canonical_is_no_key() {
        assert!(HotkeyPair::from_expanded(&[0xff; 64]).is_none());
    }
}
