//! Our real binary with a wallet, a home and a memory of its own.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use sn17_miner::primitives::Hotkey;
use sn17_miner::wallet::HotkeyPair;
use tempfile::TempDir;

use super::program::Program;

/// Everything one agent has on disk.
pub struct Agent {
    folder: TempDir,
    hotkey: Hotkey,
}

impl Agent {
    /// An agent with a throwaway key made from `name`, without a configuration.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seed = throwaway_seed(name);
        let hotkey = *HotkeyPair::from_seed(seed).hotkey();
        let hotkeys = folder.path().join("wallets/test/hotkeys");
        std::fs::create_dir_all(&hotkeys).unwrap();
        let key = serde_json::json!({
            "accountId": hex(hotkey.as_bytes()),
            "publicKey": hex(hotkey.as_bytes()),
            "secretPhrase": null,
            "secretSeed": hex(&seed),
            "ss58Address": hotkey.to_ss58(),
        });
        let file = hotkeys.join("throwaway");
        std::fs::write(&file, key.to_string()).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        Self { folder, hotkey }
    }

    pub fn hotkey(&self) -> Hotkey {
        self.hotkey
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration: one validator (uid 12), one generator, no scorer, and `more`.
    pub fn configure(&self, validator: (&str, SocketAddr), generator: SocketAddr, more: &str) {
        let folder = self.folder().display();
        let (hotkey, address) = validator;
        let text = format!(
            r#"
[network]
name = "local"
[wallet]
path = "{folder}/wallets"
name = "test"
hotkeys = ["throwaway"]
[paths]
data = "{folder}/data"
{more}
[[workers]]
name = "main"
role = "generator"
url = "http://{generator}"
dialect = "form-image"
kinds = ["text", "image"]
[[validators]]
hotkey = "{hotkey}"
address = "{address}"
uid = 12
"#
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// Starts `sn17-miner run` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sn17-miner"));
        command
            .arg("--config")
            .arg(self.config())
            .arg("run")
            .args(arguments)
            .current_dir(self.folder())
            .env_clear()
            .env("HOME", self.folder())
            .env("XDG_RUNTIME_DIR", self.folder());
        Program::start("sn17-miner", &mut command, self.folder())
    }
}

/// The seed of a throwaway key, the same on every machine.
pub fn throwaway_seed(name: &str) -> [u8; 32] {
    Sha256::digest(format!("sn17-test/{name}")).into()
}

/// As key files and the peers write bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".into(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
