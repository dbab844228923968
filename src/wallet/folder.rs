//! A wallet folder as btcli lays it out: `PATH/NAME/hotkeys/HOTKEY` (vectors/wallets README, "Layout").

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{
    Encryption, HotkeyPair, Key, Keyfile, KeyfileError, PasswordError, PasswordSources, Signable, Signature,
    is_throwaway, secret_file,
};
use crate::primitives::{Coldkey, Hotkey};

/// Which hotkey to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletSettings {
    /// The folder of wallets; a leading `~` is expanded.
    pub path: PathBuf,
    /// Name of the wallet in it, one path component.
    pub name: String,
    /// Name of the hotkey in the wallet, one path component.
    pub hotkey: String,
    /// A file whose first line is the password; a leading `~` is expanded.
    pub password_file: Option<PathBuf>,
}

/// Why a wallet did not open.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error("{name:?} cannot be the name of a {of}: it must be one plain path component")]
    BadName { of: &'static str, name: String },
    #[error("{} starts with `~`, and this user has no home folder; write the whole path", path.display())]
    NoHome { path: PathBuf },
    #[error(transparent)]
    Keyfile(#[from] KeyfileError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(
        "the key file {} holds the address {address} and no secret, so it cannot sign; copy the hotkey file \
         itself here, not its public half",
        path.display()
    )]
    PublicOnly { path: PathBuf, address: String },
}

/// Something an operator should look at, that keeps nobody from mining.
#[derive(Debug)]
pub enum WalletWarning {
    /// Others on this machine can read or write a file with a secret in it.
    Exposed { path: PathBuf, mode: u32 },
    /// `ss58Address` beside the secret is not the secret's address.
    AddressDisagrees { path: PathBuf, stated: String, hotkey: Hotkey },
    /// The public half in `HOTKEYpub.txt` is another key's.
    PublicFileDisagrees { path: PathBuf, address: String, hotkey: Hotkey },
    /// A file with a public half is there and cannot be read.
    PublicFileUnreadable { error: KeyfileError },
    /// A file meant for a public half holds a secret.
    SecretInPublicFile { path: PathBuf },
}

impl fmt::Display for WalletWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed { path, mode } => write!(
                f,
                "other users of this machine can get at {} (mode {mode:04o}); run `chmod 600` on it",
                path.display()
            ),
            Self::AddressDisagrees { path, stated, hotkey } => write!(
                f,
                "{} says its address is {stated}, and its secret is that of {hotkey}, which is the one \
                 used; make sure it is the hotkey you mean",
                path.display()
            ),
            Self::PublicFileDisagrees { path, address, hotkey } => write!(
                f,
                "{} says {address}, and the hotkey beside it is {hotkey}, which is the one used; make sure \
                 it is the hotkey you mean",
                path.display()
            ),
            Self::PublicFileUnreadable { error } => write!(f, "{error}"),
            Self::SecretInPublicFile { path } => write!(
                f,
                "{} is for a public half and holds a secret; move it away from this machine",
                path.display()
            ),
        }
    }
}

/// The files that belong to one hotkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPaths {
    pub hotkey: PathBuf,
    /// Public half of the hotkey; wallets older than 4.x have none.
    pub hotkey_public: PathBuf,
    /// Public half of the coldkey. The coldkey itself is never opened.
    pub coldkey_public: PathBuf,
}

impl WalletSettings {
    /// The files these settings mean, whether they exist or not.
    pub fn paths(&self) -> Result<KeyPaths, WalletError> {
        let wallet = expand_home(&self.path)?.join(component("wallet", &self.name)?);
        let hotkeys = wallet.join("hotkeys");
        let hotkey = component("hotkey", &self.hotkey)?;
        Ok(KeyPaths {
            hotkey: hotkeys.join(hotkey),
            hotkey_public: hotkeys.join(format!("{hotkey}pub.txt")),
            coldkey_public: wallet.join("coldkeypub.txt"),
        })
    }

    /// The key file with its password, if it is encrypted and one is to be had.
    pub(super) fn open_key(
        &self,
        keyfile: &Keyfile,
        passwords: &PasswordSources<'_>,
    ) -> Result<Key, WalletError> {
        let password = match keyfile.encryption() {
            Encryption::None => None,
            _ => {
                let file = self.password_file.as_deref().map(expand_home).transpose()?;
                Some(passwords.find(file.as_deref(), keyfile.path())?)
            }
        };
        Ok(keyfile.open(password.as_ref())?)
    }

    /// Files with secrets that others can get at. The secret of a throwaway key is no secret.
    pub(super) fn exposed(&self, keyfile: &Keyfile, hotkey: Option<&Hotkey>) -> Vec<WalletWarning> {
        let exposed =
            |path: PathBuf, mode| (mode & 0o066 != 0).then_some(WalletWarning::Exposed { path, mode });
        let key = (!hotkey.is_some_and(is_throwaway)).then(|| (keyfile.path().to_path_buf(), keyfile.mode()));
        let password = (keyfile.encryption() != Encryption::None)
            .then_some(self.password_file.as_deref())
            .flatten()
            .and_then(|path| expand_home(path).ok())
            .and_then(|path| secret_file::mode(&path).map(|mode| (path, mode)));
        [key, password].into_iter().flatten().filter_map(|(path, mode)| exposed(path, mode)).collect()
    }
}

impl KeyPaths {
    /// The public half of the hotkey by `HOTKEYpub.txt`; `None` when there is no such file.
    pub fn read_hotkey_public(&self) -> Result<Option<Hotkey>, WalletWarning> {
        Ok(read_public(&self.hotkey_public)?.map(Hotkey::from_bytes))
    }

    /// The public half of the coldkey; `None` when there is no such file.
    pub fn read_coldkey_public(&self) -> Result<Option<Coldkey>, WalletWarning> {
        Ok(read_public(&self.coldkey_public)?.map(Coldkey::from_bytes))
    }

    /// Whether `HOTKEYpub.txt`, if there is one, is of this key.
    pub(super) fn check_hotkey_public(&self, hotkey: &Hotkey) -> Result<Option<Hotkey>, WalletWarning> {
        match self.read_hotkey_public()? {
            Some(public) if public != *hotkey => Err(WalletWarning::PublicFileDisagrees {
                path: self.hotkey_public.clone(),
                address: public.to_ss58(),
                hotkey: *hotkey,
            }),
            public => Ok(public),
        }
    }
}

fn read_public(path: &Path) -> Result<Option<[u8; 32]>, WalletWarning> {
    match Keyfile::read(path).and_then(|file| file.open(None)) {
        Ok(key) if key.can_sign() => Err(WalletWarning::SecretInPublicFile { path: path.to_path_buf() }),
        Ok(key) => Ok(Some(*key.public_key())),
        Err(KeyfileError::Missing { .. }) => Ok(None),
        Err(error) => Err(WalletWarning::PublicFileUnreadable { error }),
    }
}

/// A hotkey that can sign, with what was noticed on the way.
#[derive(Debug)]
pub struct Wallet {
    pair: HotkeyPair,
    coldkey: Option<Coldkey>,
    paths: KeyPaths,
    encryption: Encryption,
    warnings: Vec<WalletWarning>,
}

impl Wallet {
    /// Reads the hotkey, decrypting it where needed, and the public files beside it.
    ///
    /// Blocking: an encrypted key file may wait for the terminal and then takes seconds of one core.
    pub fn open(settings: &WalletSettings, passwords: &PasswordSources<'_>) -> Result<Self, WalletError> {
        let paths = settings.paths()?;
        let keyfile = Keyfile::read(&paths.hotkey)?;
        let key = settings.open_key(&keyfile, passwords)?;
        let address = key.address();
        let stated = key.conflicting_address().map(str::to_owned);
        let Some(pair) = key.into_pair() else {
            return Err(WalletError::PublicOnly { path: paths.hotkey, address });
        };

        let hotkey = *pair.hotkey();
        let mut warnings = settings.exposed(&keyfile, Some(&hotkey));
        warnings.extend(stated.map(|stated| WalletWarning::AddressDisagrees {
            path: paths.hotkey.clone(),
            stated,
            hotkey,
        }));
        warnings.extend(paths.check_hotkey_public(&hotkey).err());
        let coldkey = paths.read_coldkey_public().unwrap_or_else(|warning| {
            warnings.push(warning);
            None
        });
        Ok(Self { pair, coldkey, paths, encryption: keyfile.encryption(), warnings })
    }

    /// The hotkey's public half.
    pub const fn hotkey(&self) -> &Hotkey {
        self.pair.hotkey()
    }

    /// The public half of the coldkey, by `coldkeypub.txt`; only for showing.
    pub const fn coldkey(&self) -> Option<&Coldkey> {
        self.coldkey.as_ref()
    }

    pub const fn paths(&self) -> &KeyPaths {
        &self.paths
    }

    /// How the hotkey's file is kept.
    pub const fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// To be shown to the operator, once.
    pub fn warnings(&self) -> &[WalletWarning] {
        &self.warnings
    }

    /// Signs with the hotkey.
    pub fn sign(&self, message: &Signable<'_>) -> Signature {
        self.pair.sign(message)
    }

    /// The key alone.
    pub fn into_pair(self) -> HotkeyPair {
        self.pair
    }
}

fn component<'a>(of: &'static str, name: &'a str) -> Result<&'a str, WalletError> {
    let mut components = Path::new(name).components();
    let plain = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    if plain && !name.contains('\0') {
        Ok(name)
    } else {
        Err(WalletError::BadName { of, name: name.to_owned() })
    }
}

/// Replaces a leading `~` by the user's home folder, as the library's wallet does; `~user` stays.
pub fn expand_home(path: &Path) -> Result<PathBuf, WalletError> {
    match path.strip_prefix("~") {
        Ok(rest) => {
            let dirs = directories::BaseDirs::new();
            let dirs = dirs.ok_or_else(|| WalletError::NoHome { path: path.to_path_buf() })?;
            // Joining nothing would end the path in a separator.
            Ok(if rest.as_os_str().is_empty() { dirs.home_dir().into() } else { dirs.home_dir().join(rest) })
        }
        Err(_) => Ok(path.to_path_buf()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_component() {
        for name in ["default", "my wallet-1", "hot.key", "~", "ключ"] {
            assert_eq!(component("hotkey", name).unwrap(), name);
        }
        for name in ["", ".", "..", "/", "a/b", "../a", "a/", "/a", "./a", "a\0b"] {
            assert!(component("hotkey", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_a_tilde_that_stands_alone_is_the_home_folder() {
        let home = directories::BaseDirs::new().unwrap().home_dir().to_path_buf();
        assert_eq!(expand_home(Path::new("~")).unwrap(), home);
        assert_eq!(expand_home(Path::new("~/.bittensor/wallets")).unwrap(), home.join(".bittensor/wallets"));
        for path in ["~user/wallets", "wallets/~", "/wallets"] {
            assert_eq!(expand_home(Path::new(path)).unwrap(), Path::new(path));
        }
    }
}
