//! The wallet folder, the hotkey in it, and what that key may sign.
//!
//! Reads the files of bittensor-wallet 4.0.1 and writes none. Only the hotkey is ever opened; of the
//! coldkey nothing but the public address file is looked at. Opening an encrypted key file takes
//! seconds of one core: do it off the async threads.
//!
//! Limits: a swapped-out or dumped page can still hold the key of a running miner, and a key file
//! with escaped strings (the library writes none) passes through a parser buffer that is not wiped.

mod envelope;
mod findings;
mod folder;
mod hex;
mod keyfile;
mod password;
mod secret_file;
mod signing;
mod throwaway;

pub use envelope::{DecryptionFault, Encryption};
pub use findings::{Check, Finding, Verdict, inspect};
pub use folder::{KeyPaths, Wallet, WalletError, WalletSettings, WalletWarning, expand_home};
pub use hex::HexFault;
pub use keyfile::{JsonFault, Key, Keyfile, KeyfileError, MnemonicFault, SecretFault, SecretField};
pub use password::{Password, PasswordError, PasswordSources, VariableFault, password_variable};
pub use secret_file::ReadFault;
pub use signing::{
    HotkeyPair, LICENSE_DECLARATION, Signable, Signature, SignatureError, verify, verify_message,
};
pub use throwaway::is_throwaway;
