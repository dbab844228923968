//! Where the password of an encrypted key file comes from: a file, a variable, the terminal.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::secret_file::{self, ReadFault};

/// The password of a key file. Wiped when dropped, never shown.
pub struct Password(Zeroizing<String>);

impl Password {
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text itself; never to be shown or stored.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// No password, and why.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("the password file {} cannot be used: {fault}", path.display())]
    File { path: PathBuf, fault: ReadFault },
    #[error("the first line of the password file {} is empty; write the password there", path.display())]
    EmptyFile { path: PathBuf },
    #[error("the password file {} is not UTF-8 text", path.display())]
    FileNotText { path: PathBuf },
    #[error(
        "the variable `{variable}` does not hold a password of {}: {fault}; unset it, or store the base64 of \
         the password XORed with the variable's name, as bittensor-wallet does",
        keyfile.display()
    )]
    Variable { variable: String, keyfile: PathBuf, fault: VariableFault },
    #[error(
        "{} is encrypted and there is no password for it: name a file in wallet.password_file, or set the \
         variable `{variable}`, or start from a terminal to be asked",
        keyfile.display()
    )]
    Missing { keyfile: PathBuf, variable: String },
    #[error("the password of {} could not be read from the terminal: {fault}", keyfile.display())]
    Terminal { keyfile: PathBuf, fault: io::Error },
}

/// What is wrong with the value of a password variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VariableFault {
    #[error("its value is not standard base64")]
    NotBase64,
    #[error("its value does not decode to text (was it made for another path?)")]
    NotText,
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;
type Terminal<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// The places outside the configuration where a password may be found.
#[derive(Clone, Copy)]
pub struct PasswordSources<'a> {
    environment: Environment<'a>,
    terminal: Option<Terminal<'a>>,
}

impl PasswordSources<'static> {
    /// This process's environment, and its terminal when its stdin is one.
    pub fn of_process() -> Self {
        Self {
            environment: &|name| std::env::var_os(name),
            terminal: io::stdin().is_terminal().then_some(&|prompt| rpassword::prompt_password(prompt)),
        }
    }
}

impl<'a> PasswordSources<'a> {
    /// Takes variables from `environment` and, where nothing else has the password, asks
    /// `terminal` with a prompt.
    pub fn new(environment: Environment<'a>, terminal: Option<Terminal<'a>>) -> Self {
        Self { environment, terminal }
    }

    /// The password of `keyfile`: the first line of `password_file` if one is named, else the
    /// variable [`password_variable`], else what is typed at the terminal. A source that is there
    /// but unusable is an error, not a reason to try the next. Blocks while the operator types.
    pub fn find(&self, password_file: Option<&Path>, keyfile: &Path) -> Result<Password, PasswordError> {
        if let Some(path) = password_file {
            return from_file(path);
        }
        let variable = password_variable(keyfile);
        if let Some(value) = (self.environment)(&variable) {
            let value = Zeroizing::new(value.into_encoded_bytes());
            return from_variable(&variable, &value).map_err(|fault| PasswordError::Variable {
                variable,
                keyfile: keyfile.to_path_buf(),
                fault,
            });
        }
        let keyfile = keyfile.to_path_buf();
        let Some(ask) = self.terminal else { return Err(PasswordError::Missing { keyfile, variable }) };
        match ask(&format!("Password of {}: ", keyfile.display())) {
            Ok(typed) => Ok(Password::new(Zeroizing::new(typed))),
            Err(fault) => Err(PasswordError::Terminal { keyfile, fault }),
        }
    }
}

impl fmt::Debug for PasswordSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordSources").field("terminal", &self.terminal.is_some()).finish_non_exhaustive()
    }
}

/// The variable that bittensor-wallet looks for: `BT_PW_` and the path, `/` and `.` as `_`, upper
/// case (vectors/wallets README). The path is taken as given; expand a leading `~` first, as the
/// library's wallet does. Some names cannot be exported by a shell; `env` can set them.
pub fn password_variable(keyfile: &Path) -> String {
    let path = keyfile.to_string_lossy().replace(['/', '.'], "_");
    format!("BT_PW_{}", path.to_uppercase())
}

fn from_variable(variable: &str, value: &[u8]) -> Result<Password, VariableFault> {
    let mut bytes = Zeroizing::new(STANDARD.decode(value).map_err(|_| VariableFault::NotBase64)?);
    for (byte, key) in bytes.iter_mut().zip(variable.bytes().cycle()) {
        *byte ^= key;
    }
    let text = str::from_utf8(&bytes).map_err(|_| VariableFault::NotText)?;
    Ok(Password::new(Zeroizing::new(text.to_owned())))
}

fn from_file(path: &Path) -> Result<Password, PasswordError> {
    let path = || path.to_path_buf();
    let file = secret_file::read(&path()).map_err(|fault| PasswordError::File { path: path(), fault })?;
    let text = str::from_utf8(&file.bytes).map_err(|_| PasswordError::FileNotText { path: path() })?;
    match text.lines().next() {
        None | Some("") => Err(PasswordError::EmptyFile { path: path() }),
        Some(line) => Ok(Password::new(Zeroizing::new(line.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(password: Result<Password, PasswordError>) -> String {
        password.unwrap().reveal().to_owned()
    }

    #[test]
    fn a_file_beats_the_variable_and_the_variable_beats_the_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, " from the file \r\nsecond line\n").unwrap();
        let variable = "BT_PW_A_B";
        let value: Vec<u8> = b"variable".iter().zip(variable.bytes()).map(|(a, b)| a ^ b).collect();
        let value = STANDARD.encode(value);
        let set = |name: &str| (name == variable).then(|| OsString::from(&value));
        let ask = |_: &str| Ok("typed".to_string());
        let key = Path::new("a/b");

        let all = PasswordSources::new(&set, Some(&ask));
        assert_eq!(text(all.find(Some(&file), key)), " from the file ");
        assert_eq!(text(all.find(None, key)), "variable");
        assert_eq!(text(all.find(None, Path::new("elsewhere"))), "typed");
    }

    #[test]
    fn without_any_source_the_error_names_the_variable_and_the_ways_out() {
        let sources = PasswordSources::new(&|_| None, None);
        let error = sources.find(None, Path::new("/w/my.key")).unwrap_err().to_string();
        for part in ["/w/my.key", "BT_PW__W_MY_KEY", "wallet.password_file", "terminal"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_source_that_is_there_but_unusable_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "\npassword\n").unwrap();
        let ask = |_: &str| Ok("typed".to_string());
        let bad = |_: &str| Some(OsString::from("not base64!"));
        let sources = PasswordSources::new(&bad, Some(&ask));
        let key = Path::new("key");
        assert!(matches!(sources.find(Some(&empty), key), Err(PasswordError::EmptyFile { .. })));
        let missing = folder.path().join("missing");
        assert!(matches!(sources.find(Some(&missing), key), Err(PasswordError::File { .. })));
        let error = sources.find(None, key).unwrap_err();
        assert!(matches!(error, PasswordError::Variable { fault: VariableFault::NotBase64, .. }));
        assert!(!error.to_string().contains("not base64!"));
    }
}
