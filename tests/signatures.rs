//! Signatures made by the reference software verify here, tampered ones do not, and ours verify too.

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sn17_miner::primitives::Hotkey;
use sn17_miner::wallet::{
    HotkeyPair, Keyfile, LICENSE_DECLARATION, Signable, Signature, verify, verify_message,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Vectors {
    license_declaration: String,
    keys: BTreeMap<String, SignerKey>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct SignerKey {
    mnemonic: String,
    ss58: Hotkey,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    message: Option<String>,
    message_repeat: Option<Repeat>,
    message_bytes: usize,
    message_utf8_sha256: String,
    signer: String,
    signature_hex: String,
    signature_base64: String,
    verify: bool,
    tampered: Vec<Tampered>,
    kind: Option<String>,
    nonce: Option<u64>,
    uuid: Option<String>,
    body_hash: Option<String>,
    submit_time: Option<u64>,
    prompt: Option<String>,
    prompt_file: Option<String>,
}

#[derive(Deserialize)]
struct Repeat {
    unit: String,
    times: usize,
}

#[derive(Deserialize)]
struct Tampered {
    what: String,
    verify: serde_json::Value,
}

fn vectors() -> Option<(PathBuf, Vectors)> {
    let folder = support::shared("vectors")?;
    let text = std::fs::read_to_string(folder.join("signatures.json")).unwrap();
    Some((folder, serde_json::from_str(&text).unwrap()))
}

impl Case {
    fn prompt(&self, folder: &std::path::Path) -> String {
        let from_file = |name: &String| std::fs::read_to_string(folder.join(name)).unwrap();
        self.prompt.clone().or_else(|| self.prompt_file.as_ref().map(from_file)).unwrap()
    }

    /// The message through our own closed list; `None` for a message that is not on it.
    fn signable(&self, keys: &BTreeMap<String, SignerKey>, prompt: &str) -> Option<(String, Signature)> {
        let (miner, validator) = (&keys["miner"], &keys["validator"]);
        let message = match self.kind.as_deref()? {
            "dendrite" => Signable::Synapse {
                nonce: self.nonce.unwrap(),
                dendrite: &miner.ss58,
                axon: &validator.ss58,
                uuid: self.uuid.as_deref().unwrap(),
                body_hash: self.body_hash.as_deref().unwrap(),
            },
            "submit" => Signable::Submission {
                submit_time: self.submit_time.unwrap(),
                prompt,
                validator: &validator.ss58,
                miner: &miner.ss58,
            },
            other => panic!("unknown kind {other}"),
        };
        let signature = Signature::from_hex_0x(&self.signature_hex).unwrap();
        assert!(verify(&message, &signature, &miner.ss58), "{}", self.name);

        let own = pair_of(&miner.mnemonic).sign(&message);
        assert!(verify(&message, &own, &miner.ss58), "{}", self.name);
        assert!(!verify(&message, &own, &validator.ss58), "{}", self.name);
        Some((message.message(), own))
    }

    fn message(&self, folder: &std::path::Path, keys: &BTreeMap<String, SignerKey>) -> String {
        if let Some(message) = &self.message {
            return message.clone();
        }
        if let Some(Repeat { unit, times }) = &self.message_repeat {
            return unit.repeat(*times);
        }
        self.signable(keys, &self.prompt(folder)).unwrap().0
    }
}

fn pair_of(mnemonic: &str) -> HotkeyPair {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, serde_json::json!({ "secretPhrase": mnemonic }).to_string()).unwrap();
    Keyfile::read(&path).unwrap().open(None).unwrap().into_pair().unwrap()
}

/// Applies a description of the vectors and says whether the result verifies; `None` when it is not
/// even a signature.
fn tamper(what: &str, message: &str, signature: &Signature, keys: [&Hotkey; 2]) -> Option<bool> {
    let (mut message, mut signature, mut key) = (message.as_bytes().to_vec(), signature.0.to_vec(), keys[0]);
    match what {
        "message: one byte appended" => message.push(b'x'),
        "message: last byte xor 1" => *message.last_mut().unwrap() ^= 1,
        "message: first byte removed" => drop(message.remove(0)),
        "signature: byte 0 xor 1 (R)" => signature[0] ^= 1,
        "signature: byte 33 xor 1 (s)" => signature[33] ^= 1,
        "signature: top bit of byte 63 cleared (schnorrkel marker)" => signature[63] &= 0x7f,
        "signature: truncated to 63 bytes" => drop(signature.pop()),
        "signature: all zero" => signature.fill(0),
        "public key of the other key" => key = keys[1],
        other => panic!("unknown kind of tampering: {other}"),
    }
    // Through the text, as it would arrive.
    let text: String = signature.iter().map(|byte| format!("{byte:02X}")).collect();
    let by_hex = Signature::from_hex_0x(&format!("0x{text}"));
    assert_eq!(by_hex.is_ok(), Signature::from_base64(&STANDARD.encode(&signature)).is_ok());
    Some(verify_message(&message, &by_hex.ok()?, key))
}

#[test]
fn every_case_verifies_and_nothing_tampered_does() {
    let Some((folder, vectors)) = vectors() else { return };
    assert_eq!(vectors.cases.len(), 20);
    let mut tampered = 0;
    for case in &vectors.cases {
        let message = case.message(&folder, &vectors.keys);
        assert_eq!(message.len(), case.message_bytes, "{}", case.name);
        let digest: String =
            Sha256::digest(message.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, case.message_utf8_sha256, "{}", case.name);

        let signature = Signature::from_hex_0x(&case.signature_hex).unwrap();
        assert_eq!(Signature::from_base64(&case.signature_base64), Ok(signature));
        assert_eq!(signature.to_hex_0x(), case.signature_hex);
        assert_eq!(signature.to_base64(), case.signature_base64);
        let signer = &vectors.keys[&case.signer].ss58;
        assert_eq!(verify_message(message.as_bytes(), &signature, signer), case.verify, "{}", case.name);

        let other = &vectors.keys["other"].ss58;
        for Tampered { what, verify } in &case.tampered {
            let found = tamper(what, &message, &signature, [signer, other]);
            match verify {
                serde_json::Value::Bool(expected) => {
                    assert_eq!(found, Some(*expected), "{}: {what}", case.name)
                }
                serde_json::Value::String(error) => {
                    assert!(error.starts_with("error:"), "{error}");
                    assert_eq!(found, None, "{}: {what}", case.name);
                }
                other => panic!("{other}"),
            }
            tampered += 1;
        }
    }
    assert_eq!(tampered, 19 * 9 + 7);
}

#[test]
fn our_own_messages_are_the_vectors_messages() {
    let Some((folder, vectors)) = vectors() else { return };
    assert_eq!(LICENSE_DECLARATION, vectors.license_declaration);
    let mut rebuilt = 0;
    for case in vectors.cases.iter().filter(|case| case.kind.is_some()) {
        let prompt =
            if case.kind.as_deref() == Some("submit") { case.prompt(&folder) } else { String::new() };
        let (message, _own) = case.signable(&vectors.keys, &prompt).unwrap();
        assert_eq!(message.len(), case.message_bytes, "{}", case.name);
        if let Some(expected) = &case.message {
            assert_eq!(&message, expected, "{}", case.name);
        }
        rebuilt += 1;
    }
    assert_eq!(rebuilt, 7);
}

#[test]
fn sp_core_verifies_our_signatures() {
    use sp_core::Pair as _;
    let (miner, validator) = (HotkeyPair::dev("miner"), HotkeyPair::dev("validator"));
    let message = Signable::Submission {
        submit_time: 1_763_600_012_345_678_901,
        prompt: "a red cube",
        validator: validator.hotkey(),
        miner: miner.hotkey(),
    };
    let signature = sp_core::sr25519::Signature::from_raw(miner.sign(&message).0);
    let public = sp_core::sr25519::Public::from_raw(*miner.hotkey().as_bytes());
    assert!(sp_core::sr25519::Pair::verify(&signature, message.message(), &public));
}
