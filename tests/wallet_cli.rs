//! `sn17-miner wallet`, the real binary.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sn17_miner::wallet::{HotkeyPair, Keyfile, PasswordSources, Wallet, WalletSettings, is_throwaway};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/wallets.example");

fn wallet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sn17-miner"))
        .arg("wallet")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn verdict(findings: &Value, check: &str) -> String {
    let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {findings:#}"))["verdict"].as_str().unwrap().into()
}

/// A wallet `w` with a hotkey `h` of the given content and mode, and a name for the folder.
fn folder_with(content: impl AsRef<[u8]>, mode: u32) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let hotkeys = folder.path().join("w/hotkeys");
    std::fs::create_dir_all(&hotkeys).unwrap();
    std::fs::write(hotkeys.join("h"), content).unwrap();
    std::fs::set_permissions(hotkeys.join("h"), PermissionsExt::from_mode(mode)).unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_example_wallet_is_the_development_miner() {
    let settings = WalletSettings {
        path: EXAMPLE.into(),
        name: "default".into(),
        hotkey: "default".into(),
        password_file: None,
    };
    let wallet = Wallet::open(&settings, &PasswordSources::new(&|_| None, None)).unwrap();
    assert_eq!(wallet.hotkey(), HotkeyPair::dev("miner").hotkey());
    assert_eq!(wallet.coldkey().unwrap().as_bytes(), HotkeyPair::dev("coldkey").hotkey().as_bytes());
    assert!(is_throwaway(wallet.hotkey()));
    assert!(wallet.warnings().is_empty(), "{:?}", wallet.warnings());
    // The file has no mnemonic, so its seed decides; its other fields must fit all the same.
    let text = std::fs::read_to_string(&wallet.paths().hotkey).unwrap();
    let mut fields: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    fields.remove("secretSeed").unwrap();
    let (_folder, path) = folder_with(serde_json::to_string(&fields).unwrap(), 0o600);
    let by_private_key = Keyfile::read(&Path::new(&path).join("w/hotkeys/h")).unwrap().open(None).unwrap();
    assert!(by_private_key.can_sign());
    assert_eq!(by_private_key.public_key(), wallet.hotkey().as_bytes());
    for name in ["publicKey", "accountId"] {
        let hex: String = wallet.hotkey().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(fields[name], format!("0x{hex}"));
    }
}

#[test]
fn show_without_arguments_shows_the_example() {
    let output = wallet(&["show", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = json(&output);
    assert_eq!(shown["hotkey"], HotkeyPair::dev("miner").hotkey().to_ss58());
    assert_eq!(shown["encryption"], "none");
    assert_eq!(shown["can_sign"], true);
    assert_eq!(shown["throwaway"], true);
    assert_eq!(shown["warnings"], serde_json::json!([]));

    let text = String::from_utf8(wallet(&["show"]).stdout).unwrap();
    for part in [
        HotkeyPair::dev("miner").hotkey().to_ss58(),
        HotkeyPair::dev("coldkey").hotkey().to_ss58(),
        "wallets.example/default/hotkeys/default".into(),
        "never fund it".into(),
    ] {
        assert!(text.contains(&part), "{text}");
    }
}

#[test]
fn check_passes_the_example_with_a_word_about_its_key() {
    let output = wallet(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let findings = json(&output);
    for check in
        ["names", "readable", "permissions", "encryption", "key", "signature", "public-file", "coldkey"]
    {
        assert_eq!(verdict(&findings, check), "pass");
    }
    assert_eq!(verdict(&findings, "throwaway"), "warn");
}

#[test]
fn dots_and_dashes_name_the_same_wallet() {
    let (_folder, path) = folder_with(format!(r#"{{"secretSeed":"{}"}}"#, "5a".repeat(32)), 0o600);
    let dotted =
        wallet(&["show", "--json", "--wallet.path", &path, "--wallet.name", "w", "--wallet.hotkey", "h"]);
    let dashed =
        wallet(&["show", "--json", "--wallet-path", &path, "--wallet-name=w", "--wallet-hotkey", "h"]);
    assert_eq!(json(&dotted), json(&dashed));
    assert_eq!(json(&dotted)["hotkey"], HotkeyPair::from_seed([0x5a; 32]).hotkey().to_ss58());
    assert_eq!(json(&dotted)["coldkey"], Value::Null);
}

#[test]
fn an_exposed_key_is_warned_about_and_not_refused() {
    let (_folder, path) = folder_with(format!(r#"{{"secretSeed":"{}"}}"#, "5a".repeat(32)), 0o644);
    let arguments = ["--wallet.path", &path, "--wallet.name", "w", "--wallet.hotkey", "h"];
    let output = wallet(&[&["check", "--json"], &arguments[..]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(verdict(&json(&output), "permissions"), "warn");
    assert_eq!(verdict(&json(&output), "throwaway"), "pass");
    let output = wallet(&[&["show"], &arguments[..]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{output:?}");
}

#[test]
fn wallets_that_cannot_mine_fail_the_check_and_say_what_to_do() {
    let phrase = "letter advice cage absurd amount doctor acoustic avoid letter advice cage about";
    let public = format!(r#"{{"ss58Address":"{}"}}"#, HotkeyPair::dev("other").hotkey());
    for (content, mode, check, advice) in [
        (format!(r#"{{"secretPhrase":"{phrase}"}}"#), 0o600, "key", "regen-hotkey"),
        (public, 0o600, "key", "copy the hotkey file"),
        ("$NACL".into(), 0o600, "encryption", "backup"),
        ("gAAAAA".into(), 0o600, "encryption", "regen-hotkey"),
        ("$NACL".to_string() + &"x".repeat(80), 0o600, "encryption", "BT_PW_"),
        ("{}".into(), 0o000, "readable", "chmod 600"),
    ] {
        let (_folder, path) = folder_with(&content, mode);
        let arguments = ["--wallet.path", &path, "--wallet.name", "w", "--wallet.hotkey", "h"];
        let output = wallet(&[&["check", "--json"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{content}: {output:?}");
        assert_eq!(verdict(&json(&output), check), "fail", "{content}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(advice), "{content}: {text}");
        assert!(!text.contains(phrase), "{text}");
    }
    let output = wallet(&["check", "--json", "--wallet.name", "../elsewhere"]);
    assert_eq!((output.status.code(), verdict(&json(&output), "names").as_str()), (Some(1), "fail"));
    let output = wallet(&["show", "--wallet.hotkey", "missing"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("new-hotkey"), "{output:?}");
}

#[test]
fn an_encrypted_key_is_shown_by_its_public_half_and_opened_by_its_password_file() {
    let Some(tree) = support::shared("vectors/wallets/tree") else { return };
    let tree = tree.to_str().unwrap();
    let golden = ["--wallet.path", tree, "--wallet.name", "golden", "--wallet.hotkey"];

    let closed = wallet(&[&["show", "--json"], &golden[..], &["nacl"]].concat());
    assert_eq!(closed.status.code(), Some(0), "{closed:?}");
    let shown = json(&closed);
    assert_eq!(shown["hotkey"], "5G49Q5XJyvZ2DC8HfyL5btswLvHZmTXEwUykFCga8dzdUpTp");
    assert_eq!((&shown["encryption"], &shown["can_sign"]), (&"nacl".into(), &Value::Null));

    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "Throwaway-Passw0rd-1\n").unwrap();
    std::fs::set_permissions(&password, PermissionsExt::from_mode(0o644)).unwrap();
    let file = ["--wallet.password-file", password.to_str().unwrap()];
    let opened = wallet(&[&["check", "--json"], &golden[..], &["ansible"], &file[..]].concat());
    assert_eq!(opened.status.code(), Some(0), "{opened:?}");
    assert_eq!(verdict(&json(&opened), "encryption"), "pass");
    assert!(String::from_utf8_lossy(&opened.stdout).contains("and the password opens it"));
    assert_eq!(verdict(&json(&opened), "permissions"), "warn", "the password file is for all to read");
}

#[test]
fn no_command_prints_a_secret() {
    let secrets = ["5a5a5a5a", "letter advice", "3ce8b706", "02eb985c"];
    let seed = format!(r#"{{"secretSeed":"{}"}}"#, "5a".repeat(32));
    let golden = r#"{"secretSeed":"0x3ce8b706e4a1ba7c4e81ee4b8b86a865e075e0b01ef9493c8472b5704fc39e46",
        "secretPhrase":"letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
        "privateKey":"0x02eb985c0646fc5259be7930acd0dc7e8f98f2326fd5a0a45f965f4c73169a0a69633c4a5eade947353d3a5662c913b1ea0cc183c578a14e0e69a67b7e768148"}"#;
    for content in [seed.as_str(), golden, &seed.replace('}', ","), &seed.replace("5a\"", "5g\"")] {
        let (_folder, path) = folder_with(content, 0o644);
        for command in [&["show"][..], &["show", "--json"], &["check"], &["check", "--json"]] {
            let arguments = ["--wallet.path", &path, "--wallet.name", "w", "--wallet.hotkey", "h"];
            let Output { stdout, stderr, .. } = wallet(&[command, &arguments].concat());
            let said = String::from_utf8([stdout, stderr].concat()).unwrap();
            assert!(!said.is_empty());
            assert!(!secrets.iter().any(|secret| said.contains(secret)), "{command:?}: {said}");
        }
    }
}
