//! The encryptions of key files (vectors/wallets README, "Encryption").
//!
//! A file is taken apart before anybody is asked for a password, so that a damaged one costs neither
//! a prompt nor half a gigabyte. What is inside the ciphertext cannot be told apart: a wrong password
//! and a flipped bit both end in [`DecryptionFault::WrongPassword`].

use std::fmt;

use aes::Aes256;
use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::aead::generic_array::GenericArray;
use crypto_secretbox::{AeadInPlace, KeyInit as _, XSalsa20Poly1305};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::Password;
use super::hex;

/// How a key file is kept, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// Plain JSON.
    None,
    /// `$NACL`: Argon2i and XSalsa20-Poly1305; what the library writes today.
    Nacl,
    /// `$ANSIBLE_VAULT`: PBKDF2 and AES-CTR.
    AnsibleVault,
    /// `gAAAAA`: the oldest; not readable, neither by us nor by the library.
    Fernet,
}

impl Encryption {
    pub(super) fn of(file: &[u8]) -> Self {
        match file {
            [b'$', b'N', b'A', b'C', b'L', ..] => Self::Nacl,
            _ if file.starts_with(VAULT_MARK) => Self::AnsibleVault,
            _ if file.starts_with(b"gAAAAA") => Self::Fernet,
            _ => Self::None,
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not encrypted",
            Self::Nacl => "encrypted ($NACL)",
            Self::AnsibleVault => "encrypted (Ansible Vault)",
            Self::Fernet => "encrypted (Fernet)",
        })
    }
}

/// Why an encrypted key file stays closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecryptionFault {
    #[error("it is encrypted and no password was given")]
    NoPassword,
    #[error(
        "the password is wrong, or the file is damaged; try the password with btcli, or restore the file \
         from its backup"
    )]
    WrongPassword,
    #[error("the encrypted file is damaged ({0}); restore it from its backup")]
    Damaged(&'static str),
    #[error(
        "it is an Ansible Vault file whose header is not `$ANSIBLE_VAULT;1.1;AES256`, the only one that \
         wallets use; regenerate the hotkey from its mnemonic with `btcli wallet regen-hotkey`"
    )]
    VaultHeader,
    #[error(
        "it is in the old Fernet encryption (gAAAAA), which current bittensor wallets cannot read either; \
         regenerate the hotkey from its mnemonic with `btcli wallet regen-hotkey`"
    )]
    Fernet,
    #[error("opening it takes 512 MiB of memory for a few seconds, and they are not to be had")]
    OutOfMemory,
}

/// An encrypted key file taken apart, still closed.
#[derive(Debug)]
pub(super) enum Envelope {
    Nacl(SecretBox),
    Vault(Vault),
}

impl Envelope {
    /// The JSON inside. Blocking: `$NACL` takes seconds and 512 MiB.
    pub(super) fn open(&self, password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptionFault> {
        match self {
            Self::Nacl(sealed) => sealed.open(password),
            Self::Vault(vault) => vault.open(password),
        }
    }
}

/// Argon2i salt of every `$NACL` key file; a constant of the format.
const NACL_SALT: [u8; 16] =
    [0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1];
/// libsodium's "sensitive" limits: 8 passes over 512 MiB in one lane.
const NACL_PASSES: u32 = 8;
const NACL_MEMORY_KIB: u32 = 512 * 1024;

#[derive(Debug)]
pub(super) struct SecretBox {
    nonce: [u8; 24],
    tag: [u8; 16],
    text: Vec<u8>,
}

impl SecretBox {
    pub(super) fn parse(file: &[u8]) -> Result<Self, DecryptionFault> {
        let cut = || DecryptionFault::Damaged("it ends before its ciphertext begins");
        let body = file.strip_prefix(b"$NACL").ok_or_else(cut)?;
        let (nonce, body) = body.split_first_chunk().ok_or_else(cut)?;
        let (tag, text) = body.split_first_chunk().ok_or_else(cut)?;
        Ok(Self { nonce: *nonce, tag: *tag, text: text.to_vec() })
    }

    fn open(&self, password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptionFault> {
        let key = nacl_key(password)?;
        let mut text = Zeroizing::new(self.text.clone());
        XSalsa20Poly1305::new(GenericArray::from_slice(&*key))
            .decrypt_in_place_detached(
                GenericArray::from_slice(&self.nonce),
                b"",
                &mut text,
                GenericArray::from_slice(&self.tag),
            )
            .map_err(|_| DecryptionFault::WrongPassword)?;
        Ok(text)
    }
}

fn nacl_key(password: &Password) -> Result<Zeroizing<[u8; 32]>, DecryptionFault> {
    let mut memory = Vec::new();
    // Reserved by hand: a machine short of memory gets an error here instead of an abort.
    memory.try_reserve_exact(NACL_MEMORY_KIB as usize).map_err(|_| DecryptionFault::OutOfMemory)?;
    memory.resize(NACL_MEMORY_KIB as usize, argon2::Block::new());
    let mut key = Zeroizing::new([0; 32]);
    let derived = Params::new(NACL_MEMORY_KIB, NACL_PASSES, 1, Some(key.len())).and_then(|params| {
        Argon2::new(Algorithm::Argon2i, Version::V0x13, params).hash_password_into_with_memory(
            password.reveal().as_bytes(),
            &NACL_SALT,
            &mut *key,
            memory.as_mut_slice(),
        )
    });
    // The key is a hash of the last block, so the memory is as secret as the key.
    memory.zeroize();
    // What is left to refuse is a password of 4 GiB.
    derived.map_err(|_| DecryptionFault::WrongPassword)?;
    Ok(key)
}

const VAULT_MARK: &[u8] = b"$ANSIBLE_VAULT";
const VAULT_HEADER: &[u8] = b"$ANSIBLE_VAULT;1.1;AES256";
const VAULT_ROUNDS: u32 = 10_000;

#[derive(Debug)]
pub(super) struct Vault {
    salt: Vec<u8>,
    mac: [u8; 32],
    text: Vec<u8>,
}

impl Vault {
    pub(super) fn parse(file: &[u8]) -> Result<Self, DecryptionFault> {
        let damaged = || DecryptionFault::Damaged("its body is not three hexadecimal strings");
        let (header, body) = match file.iter().position(|byte| *byte == b'\n') {
            Some(end) => file.split_at(end),
            None => (file, &[][..]),
        };
        if header.trim_ascii_end() != VAULT_HEADER {
            return Err(DecryptionFault::VaultHeader);
        }
        let digits: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let inner = decode(&digits).ok_or_else(damaged)?;
        let mut parts = inner.split(|byte| *byte == b'\n');
        let mut part = || parts.next().and_then(decode).ok_or_else(damaged);
        let (salt, mac, text) = (part()?, part()?, part()?);
        if parts.next().is_some() || salt.is_empty() || !text.len().is_multiple_of(16) || text.is_empty() {
            return Err(damaged());
        }
        Ok(Self { salt, mac: mac.try_into().map_err(|_| damaged())?, text })
    }

    fn open(&self, password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptionFault> {
        let mut keys = Zeroizing::new([0; 80]);
        pbkdf2::pbkdf2_hmac::<Sha256>(password.reveal().as_bytes(), &self.salt, VAULT_ROUNDS, &mut *keys);
        let (cipher_key, rest) = keys.split_at(32);
        let (mac_key, counter) = rest.split_at(32);

        let mut mac = Hmac::<Sha256>::new_from_slice(mac_key).map_err(|_| DecryptionFault::WrongPassword)?;
        mac.update(&self.text);
        mac.verify_slice(&self.mac).map_err(|_| DecryptionFault::WrongPassword)?;

        let mut text = Zeroizing::new(self.text.clone());
        Ctr128BE::<Aes256>::new_from_slices(cipher_key, counter)
            .map_err(|_| DecryptionFault::WrongPassword)?
            .apply_keystream(&mut text);
        let kept = without_padding(&text).ok_or(DecryptionFault::WrongPassword)?;
        text.truncate(kept);
        Ok(text)
    }
}

/// The length without PKCS#7 padding; `None` when there is no such padding.
fn without_padding(text: &[u8]) -> Option<usize> {
    let count = usize::from(*text.last()?);
    let kept = text.len().checked_sub(count)?;
    let padded = (1..=16).contains(&count) && text[kept..].iter().all(|byte| usize::from(*byte) == count);
    padded.then_some(kept)
}

fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; digits.len() / 2];
    hex::decode_exactly(str::from_utf8(digits).ok()?, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_whole_or_nothing() {
        assert_eq!(without_padding(&[7, 1]), Some(1));
        assert_eq!(without_padding(&[16; 16]), Some(0));
        for bad in [&[7, 0][..], &[17; 17], &[3, 2], &[2], &[]] {
            assert_eq!(without_padding(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_damaged_before_any_password_is_asked_for() {
        for length in 5..5 + 24 + 16 {
            let mut file = b"$NACL".to_vec();
            file.resize(length, 7);
            assert!(matches!(SecretBox::parse(&file), Err(DecryptionFault::Damaged(_))), "{length}");
        }
        assert!(SecretBox::parse(&[b"$NACL".as_slice(), &[0; 40]].concat()).is_ok());
    }

    #[test]
    fn a_vault_needs_its_header_and_its_three_parts() {
        let parse = |text: &str| Vault::parse(text.as_bytes()).unwrap_err();
        assert_eq!(parse("$ANSIBLE_VAULT"), DecryptionFault::VaultHeader);
        assert_eq!(parse("$ANSIBLE_VAULT;1.2;AES256;me\n00"), DecryptionFault::VaultHeader);
        for body in ["", "\n", "\n0", "\nzz", "\n30300a", "\n30300a30300a", "\né"] {
            let fault = parse(&format!("$ANSIBLE_VAULT;1.1;AES256{body}"));
            assert!(matches!(fault, DecryptionFault::Damaged(_)), "{body:?}");
        }
    }
}
