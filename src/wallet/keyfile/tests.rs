use proptest::prelude::*;

use super::*;

/// Mnemonic, mini secret and expanded key of `default` in the golden vectors.
const PHRASE: &str = "letter advice cage absurd amount doctor acoustic avoid letter advice cage above";
const SEED: &str = "3ce8b706e4a1ba7c4e81ee4b8b86a865e075e0b01ef9493c8472b5704fc39e46";
const EXPANDED: &str = "02eb985c0646fc5259be7930acd0dc7e8f98f2326fd5a0a45f965f4c73169a0a\
                        69633c4a5eade947353d3a5662c913b1ea0cc183c578a14e0e69a67b7e768148";
const ADDRESS: &str = "5EtaiguVmKZ9Vewv7HkS86hWTS8Lf4twTSADg29PH5rM5Wng";

fn key_of(json: &str) -> Result<Key, KeyfileError> {
    open(json.as_bytes(), None)
}

fn open(bytes: &[u8], password: Option<&Password>) -> Result<Key, KeyfileError> {
    let path = Path::new("key");
    Keyfile::parse(path, 0o600, Zeroizing::new(bytes.to_vec()))
        .map_err(|fault| KeyfileError::Decryption { path: path.into(), fault })?
        .open(password)
}

#[test]
fn one_key_in_three_forms_is_one_key() {
    for json in [
        format!(r#"{{"secretPhrase":"{PHRASE}"}}"#),
        format!(r#"{{"secretPhrase":"  {}\t"}}"#, PHRASE.replace(' ', "   ")),
        format!(r#"{{"secretSeed":"{SEED}"}}"#),
        format!(r#"{{"privateKey":"0x{EXPANDED}"}}"#),
        format!(r#"{{"ss58Address":"{ADDRESS}"}}"#),
    ] {
        let key = key_of(&json).unwrap();
        assert_eq!(key.address(), ADDRESS);
        assert_eq!(key.can_sign(), !json.contains("ss58Address"));
        assert_eq!(key.conflicting_address(), None);
    }
}

#[test]
fn the_last_of_repeated_fields_counts_even_when_it_is_null() {
    let json = format!(r#"{{"secretSeed":"nonsense","secretSeed":null,"ss58Address":"{ADDRESS}"}}"#);
    assert!(!key_of(&json).unwrap().can_sign());
}

#[test]
fn an_address_that_is_not_the_secrets_is_told_apart() {
    let other = HotkeyPair::dev("other").hotkey().to_ss58();
    for (stated, shown) in [(other.as_str(), other.as_str()), (PHRASE, "something that is no address")] {
        let key = key_of(&format!(r#"{{"secretSeed":"{SEED}","ss58Address":"{stated}"}}"#)).unwrap();
        assert_eq!(key.conflicting_address(), Some(shown));
        assert_eq!(key.address(), ADDRESS);
    }
}

#[test]
fn mnemonics_are_refused_with_the_reason() {
    let fault = |phrase: &str| match key_of(&format!(r#"{{"secretPhrase":"{phrase}"}}"#)) {
        Err(KeyfileError::BadMnemonic { fault, .. }) => fault,
        other => panic!("{phrase:?}: {other:?}"),
    };
    assert_eq!(fault(""), MnemonicFault::WordCount(0));
    assert_eq!(fault(&PHRASE[..PHRASE.len() - 6]), MnemonicFault::WordCount(11));
    assert_eq!(fault(&format!("{PHRASE}//hard")), MnemonicFault::DerivationPath);
    assert_eq!(fault(&PHRASE.to_uppercase()), MnemonicFault::Capitals);
    assert_eq!(fault(&PHRASE.replace("above", "about")), MnemonicFault::WordsOrChecksum);
    assert_eq!(fault(&PHRASE.replace("above", "abvoe")), MnemonicFault::WordsOrChecksum);
}

#[test]
fn nothing_that_is_shown_holds_the_secret() {
    let number = "12345678901234567890";
    let files = [
        format!(r#"{{"secretPhrase":"{PHRASE}"}}"#),
        format!(r#"{{"secretPhrase":"{PHRASE} cage"}}"#),
        format!(r#"{{"secretSeed":"{SEED}"}}"#),
        format!(r#"{{"secretSeed":"{SEED}00"}}"#),
        format!(r#"{{"secretSeed":"{SEED}g"}}"#),
        format!(r#"{{"secretSeed":"{SEED}" "{SEED}"}}"#),
        format!(r#"{{"secretSeed":{number}}}"#),
        format!(r#"{{"{SEED}":["{PHRASE}"]}}"#),
        format!(r#"{{"privateKey":"{EXPANDED}"}}"#),
        format!(r#"{{"privateKey":"{}{}"}}"#, "ff".repeat(32), &EXPANDED[64..]),
        format!(r#"{{"ss58Address":"{SEED}"}}"#),
        format!(r#"{{"ss58Address":"{PHRASE}","secretSeed":"{SEED}"}}"#),
        format!(r#""{PHRASE}""#),
        PHRASE.to_string(),
    ];
    for file in files {
        let keyfile =
            Keyfile::parse(Path::new("key"), 0o600, Zeroizing::new(file.clone().into_bytes())).unwrap();
        let shown = match keyfile.open(None) {
            Ok(key) => format!("{keyfile:?} {key:?} {key:#?}"),
            Err(error) => format!("{keyfile:?} {error:?} {error:#?} {error}"),
        };
        for secret in ["letter advice", &SEED[..16], &EXPANDED[..16], &EXPANDED[64..80], number] {
            assert!(!shown.contains(secret), "{file} is shown as {shown}");
        }
    }
    let password = Password::new(Zeroizing::new("hunter2".into()));
    assert_eq!(format!("{password:?}"), "Password(..)");
    let pair = key_of(&format!(r#"{{"secretSeed":"{SEED}"}}"#)).unwrap().into_pair().unwrap();
    assert_eq!(format!("{pair:?}"), format!("HotkeyPair({ADDRESS})"));
}

/// Pieces that take the parsers further than plain noise does.
fn key_file_like() -> impl Strategy<Value = Vec<u8>> {
    const TOKENS: [&[u8]; 16] = [
        b"{",
        b"}",
        b":",
        b",",
        b"\"secretPhrase\"",
        b"\"secretSeed\"",
        b"\"privateKey\"",
        b"\"ss58Address\"",
        b"\"0x\\u0030\"",
        b"\"\\ud800\"",
        b"null",
        b"-1e999",
        b"[",
        b"\xef\xbb\xbf",
        b"\n3030",
        b"0a",
    ];
    const STARTS: [&[u8]; 4] = [b"", b"$NACL", b"$ANSIBLE_VAULT;1.1;AES256\n", b"gAAAAA"];
    let token = proptest::sample::select(&TOKENS[..]);
    let start = proptest::sample::select(&STARTS[..]);
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat()),
    ];
    (start, body).prop_map(|(start, body)| [start, body.as_slice()].concat())
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_key_or_an_error(bytes in key_file_like()) {
        // Without a password for `$NACL`: half a gigabyte per case would be too much.
        let password = Password::new(Zeroizing::new("password".into()));
        let password = (Encryption::of(&bytes) != Encryption::Nacl).then_some(&password);
        if let Err(error) = open(&bytes, password) {
            prop_assert!(error.to_string().contains("key"));
        }
    }

    #[test]
    fn any_field_texts_end_in_a_key_or_an_error(field in 0_usize..4, text in "\\PC{0,200}") {
        let name = ["secretPhrase", "secretSeed", "privateKey", "ss58Address"][field];
        let json = serde_json::json!({ name: text }).to_string();
        let _outcome = key_of(&json);
    }
}
