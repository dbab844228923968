//! Every key file of the golden vectors gives what bittensor-wallet 4.0.1 made of it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
use sn17_miner::primitives::Hotkey;
use sn17_miner::wallet::{
    DecryptionFault, HotkeyPair, Key, Keyfile, KeyfileError, Password, PasswordSources, Wallet, WalletError,
    WalletSettings, WalletWarning, is_throwaway, password_variable,
};
use zeroize::Zeroizing;

#[derive(Deserialize)]
struct Expected {
    password: String,
    mnemonics: BTreeMap<String, String>,
    seed: String,
    files: BTreeMap<String, File>,
    permissions: BTreeMap<String, String>,
    password_variables: Vec<Variable>,
}

#[derive(Deserialize)]
struct File {
    needs_password: bool,
    #[serde(flatten)]
    plain: Option<Outcome>,
    right_password: Option<Outcome>,
    wrong_password: Option<Outcome>,
    no_password: Option<Outcome>,
    format_says: Option<Says>,
}

#[derive(Deserialize)]
struct Outcome {
    ok: bool,
    ss58: Option<String>,
    public_key: Option<String>,
    can_sign: Option<bool>,
    error_class: Option<String>,
}

#[derive(Deserialize)]
struct Says {
    ss58: String,
}

#[derive(Deserialize)]
struct Variable {
    path: String,
    variable: String,
    value: String,
}

struct Vectors {
    folder: PathBuf,
    expected: Expected,
}

fn vectors() -> Option<Vectors> {
    let folder = support::shared("vectors/wallets")?;
    let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    Some(Vectors { folder, expected })
}

fn password(text: &str) -> Password {
    Password::new(Zeroizing::new(text.into()))
}

/// The vectors' name of an error. `crash` is the library's; ours is a decryption error.
fn class(error: &KeyfileError) -> &'static str {
    match error {
        KeyfileError::Missing { .. } => "missing_file",
        KeyfileError::Unreadable { .. } => "unreadable",
        KeyfileError::Read { .. } => "read_error",
        KeyfileError::NotJsonOfStrings { .. } => "not_json_object_of_strings",
        KeyfileError::NoUsableField { .. } => "no_usable_field",
        KeyfileError::BadMnemonic { .. } => "bad_mnemonic",
        KeyfileError::BadKey { .. } => "bad_hex_or_key",
        KeyfileError::BadAddress { .. } => "bad_ss58",
        KeyfileError::Decryption { .. } => "decryption",
    }
}

fn check(name: &str, path: &Path, found: Result<Key, KeyfileError>, expected: &Outcome) {
    match found {
        Ok(key) => {
            assert!(expected.ok, "{name}: opened, expected {:?}", expected.error_class);
            assert_eq!(Some(key.address()), expected.ss58, "{name}");
            assert_eq!(Some(hex(key.public_key())), expected.public_key, "{name}");
            assert_eq!(Some(key.can_sign()), expected.can_sign, "{name}");
        }
        Err(error) => {
            let class = class(&error);
            let wanted = expected.error_class.as_deref().map(|wanted| match wanted {
                "crash" => "decryption",
                wanted => wanted,
            });
            assert_eq!(Some(class), wanted, "{name}: {error}");
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{name}: no path in {text}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

// One test and in sequence: each try at a `$NACL` file takes half a gigabyte and seconds of a core.
#[test]
fn every_key_file_gives_what_the_library_made_of_it() {
    let Some(Vectors { folder, expected }) = vectors() else { return };
    assert_eq!(expected.files.len(), 72);
    let mut outcomes = 0;
    for (name, file) in &expected.files {
        let path = folder.join(name);
        let open = |password: Option<&Password>| Keyfile::read(&path).and_then(|file| file.open(password));
        if file.needs_password {
            let right = password(&expected.password);
            let wrong = password("not the password");
            for (outcome, password) in [
                (&file.right_password, Some(&right)),
                (&file.wrong_password, Some(&wrong)),
                (&file.no_password, None),
            ] {
                check(name, &path, open(password), outcome.as_ref().unwrap());
                outcomes += 1;
            }
        } else {
            check(name, &path, open(None), file.plain.as_ref().unwrap());
            outcomes += 1;
        }
    }
    assert_eq!(outcomes, 61 + 3 * 11);
}

#[test]
fn damaged_and_old_files_say_so_instead_of_blaming_the_password() {
    let Some(Vectors { folder, .. }) = vectors() else { return };
    let fault = |name: &str| match Keyfile::read(&folder.join("tree/golden/hotkeys").join(name)) {
        Err(KeyfileError::Decryption { fault, .. }) => fault,
        other => panic!("{name}: {other:?}"),
    };
    assert!(matches!(fault("bad_nacl_header_only"), DecryptionFault::Damaged(_)));
    assert!(matches!(fault("bad_ansible_truncated"), DecryptionFault::Damaged(_)));
    assert!(matches!(fault("bad_ansible_header_only"), DecryptionFault::Damaged(_)));
    assert_eq!(fault("bad_ansible_version12"), DecryptionFault::VaultHeader);
    assert_eq!(fault("legacy_fernet"), DecryptionFault::Fernet);
    assert!(fault("legacy_fernet").to_string().contains("regen-hotkey"));
}

/// A wallet folder of our own, with the golden `default` hotkey under the given mode.
fn wallet_with_mode(folder: &Path, mode: u32) -> (tempfile::TempDir, WalletSettings) {
    let home = tempfile::tempdir().unwrap();
    let hotkeys = home.path().join("golden/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    let key = hotkeys.join("mine");
    // Not one of the published keys, whose modes do not matter.
    std::fs::write(&key, format!(r#"{{"secretSeed":"0x{}"}}"#, "5a".repeat(32))).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
    std::fs::copy(folder.join("tree/golden/coldkeypub.txt"), home.path().join("golden/coldkeypub.txt"))
        .unwrap();
    let settings = WalletSettings {
        path: home.path().into(),
        name: "golden".into(),
        hotkey: "mine".into(),
        password_file: None,
    };
    (home, settings)
}

fn no_passwords() -> PasswordSources<'static> {
    PasswordSources::new(&|_| None, None)
}

#[test]
fn modes_are_read_as_the_library_reads_them_and_exposed_keys_are_warned_about() {
    let Some(Vectors { folder, expected }) = vectors() else { return };
    let modes: Vec<&str> = expected.permissions.keys().map(String::as_str).collect();
    assert_eq!(modes, ["0000 or 0200", "0600", "0644", "0777", "remark"]);

    for (mode, warned) in [(0o600, false), (0o400, false), (0o644, true), (0o640, true), (0o777, true)] {
        let (_home, settings) = wallet_with_mode(&folder, mode);
        let wallet = Wallet::open(&settings, &no_passwords()).unwrap();
        let exposed =
            |warning: &WalletWarning| matches!(warning, WalletWarning::Exposed { mode: m, .. } if *m == mode);
        assert_eq!(wallet.warnings().iter().any(exposed), warned, "{mode:o}: {:?}", wallet.warnings());
        assert!(!format!("{wallet:?} {wallet:#?}").contains("5a5a"));
        let coldkey = expected.files["tree/golden/coldkeypub.txt"].plain.as_ref().unwrap();
        assert_eq!(wallet.coldkey().map(ToString::to_string), coldkey.ss58);
    }
    for mode in [0o000, 0o200] {
        let (_home, settings) = wallet_with_mode(&folder, mode);
        let error = Wallet::open(&settings, &no_passwords()).unwrap_err();
        assert!(matches!(error, WalletError::Keyfile(KeyfileError::Unreadable { .. })), "{mode:o}: {error}");
    }
}

#[test]
fn what_is_no_plain_small_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(1 << 33).unwrap();
    assert_eq!(class(&Keyfile::read(&large).unwrap_err()), "read_error");
    // A pipe or a device would be waited for.
    assert_eq!(class(&Keyfile::read(Path::new("/dev/zero")).unwrap_err()), "read_error");
    assert_eq!(class(&Keyfile::read(&large.join("below")).unwrap_err()), "missing_file");
}

#[test]
fn variables_have_the_librarys_names_and_values() {
    let Some(Vectors { expected, .. }) = vectors() else { return };
    assert_eq!(expected.password_variables.len(), 3);
    for Variable { path, variable, value } in &expected.password_variables {
        assert_eq!(&password_variable(Path::new(path)), variable);
        let set = |name: &str| (name == variable).then(|| OsString::from(value));
        let found = PasswordSources::new(&set, None).find(None, Path::new(path)).unwrap();
        assert_eq!(found.reveal(), expected.password, "{path}");
    }
}

#[test]
fn an_encrypted_hotkey_opens_with_the_password_of_its_variable() {
    let Some(Vectors { folder, expected }) = vectors() else { return };
    let settings = WalletSettings {
        path: folder.join("tree"),
        name: "golden".into(),
        hotkey: "ansible".into(),
        password_file: None,
    };
    let variable = password_variable(&settings.paths().unwrap().hotkey);
    let xored: Vec<u8> =
        expected.password.bytes().zip(variable.bytes().cycle()).map(|(byte, key)| byte ^ key).collect();
    let value = base64::engine::general_purpose::STANDARD.encode(xored);
    let set = |name: &str| (name == variable).then(|| OsString::from(&value));

    let wallet = Wallet::open(&settings, &PasswordSources::new(&set, None)).unwrap();
    let stated = expected.files["tree/golden/hotkeys/ansible"].right_password.as_ref().unwrap();
    assert_eq!(Some(wallet.hotkey().to_ss58()), stated.ss58);
    assert!(matches!(Wallet::open(&settings, &no_passwords()), Err(WalletError::Password(_))));
}

#[test]
fn keys_that_disagree_with_what_stands_beside_them_are_warned_about() {
    let Some(Vectors { folder, .. }) = vectors() else { return };
    let (home, settings) = wallet_with_mode(&folder, 0o600);
    let golden = folder.join("tree/golden/hotkeys");
    let hotkeys = home.path().join("golden/hotkeys");
    std::fs::copy(golden.join("defaultpub.txt"), hotkeys.join("minepub.txt")).unwrap();
    let wallet = Wallet::open(&settings, &no_passwords()).unwrap();
    assert!(matches!(wallet.warnings(), [WalletWarning::PublicFileDisagrees { .. }]), "{wallet:?}");

    let in_tree =
        WalletSettings { path: folder.join("tree"), hotkey: "wrong_ss58_ignored".into(), ..settings };
    let wallet = Wallet::open(&in_tree, &no_passwords()).unwrap();
    assert!(matches!(wallet.warnings(), [WalletWarning::AddressDisagrees { .. }]), "{wallet:?}");
    let public = WalletSettings { hotkey: "ss58_format_0".into(), ..in_tree };
    let error = Wallet::open(&public, &no_passwords()).unwrap_err();
    assert!(matches!(error, WalletError::PublicOnly { .. }), "{error}");
}

#[test]
fn a_secret_in_the_coldkeys_public_file_is_not_taken_for_a_coldkey() {
    let Some(Vectors { folder, .. }) = vectors() else { return };
    let (home, settings) = wallet_with_mode(&folder, 0o600);
    let coldkey = home.path().join("golden/coldkeypub.txt");
    std::fs::copy(folder.join("tree/golden/hotkeys/seed_only"), coldkey).unwrap();
    let wallet = Wallet::open(&settings, &no_passwords()).unwrap();
    assert_eq!(wallet.coldkey(), None);
    assert!(matches!(wallet.warnings(), [WalletWarning::SecretInPublicFile { .. }]), "{wallet:?}");
}

/// Addresses anywhere in a text: 48 characters of base58 that check.
fn addresses(text: &str) -> impl Iterator<Item = Hotkey> + '_ {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.parse().ok())
}

#[test]
fn every_key_of_the_vectors_and_of_the_example_is_throwaway() {
    let Some(Vectors { folder, expected }) = vectors() else { return };
    let mut published = BTreeSet::new();
    for file in expected.files.values() {
        let outcomes = [&file.plain, &file.right_password].into_iter().flatten();
        // Public keys and not addresses: some are of another format.
        published.extend(outcomes.filter_map(|outcome| outcome.public_key.as_deref()).map(hotkey_of_hex));
        published.extend(file.format_says.iter().map(|says| says.ss58.parse::<Hotkey>().unwrap()));
    }
    for phrase in expected.mnemonics.values() {
        published.insert(hotkey_of(&format!(r#"{{"secretPhrase":"{phrase}"}}"#)));
    }
    published.insert(hotkey_of(&format!(r#"{{"secretSeed":"{}"}}"#, expected.seed)));
    let vectors = folder.parent().unwrap();
    for file in ["signatures.json", "synapse/README.md", "synapse/experiments.json"] {
        published.extend(addresses(&std::fs::read_to_string(vectors.join(file)).unwrap()));
    }
    published.insert(*HotkeyPair::dev("miner").hotkey());
    published.insert(*HotkeyPair::dev("coldkey").hotkey());

    let missing: Vec<String> =
        published.iter().filter(|key| !is_throwaway(key)).map(ToString::to_string).collect();
    assert!(missing.is_empty(), "not listed as throwaway: {missing:#?}");
    assert_eq!(published.len(), 14);
    assert!(!is_throwaway(HotkeyPair::from_seed([0x5a; 32]).hotkey()));
}

fn hotkey_of(json: &str) -> Hotkey {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, json).unwrap();
    Hotkey::from_bytes(*Keyfile::read(&path).unwrap().open(None).unwrap().public_key())
}

fn hotkey_of_hex(text: &str) -> Hotkey {
    let digits = text.strip_prefix("0x").unwrap();
    Hotkey::from_bytes(std::array::from_fn(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()))
}
