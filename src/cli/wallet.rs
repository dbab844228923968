//! `wallet`: look at the wallet, and check it. Neither ever prints a secret.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::ExitStatus;
use super::layers::LayerArgs;
use crate::primitives::{Coldkey, Hotkey};
use crate::wallet::{
    Encryption, Finding, Keyfile, PasswordError, PasswordSources, Verdict, Wallet, WalletError,
    WalletSettings, inspect, is_throwaway,
};

#[derive(Debug, clap::Subcommand)]
pub enum WalletCommand {
    /// Show which keys are used, and how they are kept
    Show(WalletArgs),
    /// Check everything that can be wrong with the wallet; exit code 1 when it cannot mine
    Check(WalletArgs),
}

#[derive(Debug, clap::Args)]
pub struct WalletArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(layers: &LayerArgs, command: WalletCommand) -> anyhow::Result<ExitStatus> {
    let settings = layers.load()?.settings.wallet;
    match command {
        WalletCommand::Show(args) => show(&settings, args.json),
        WalletCommand::Check(args) => check(&settings, args.json),
    }
}

/// What `wallet show --json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    keyfile: PathBuf,
    wallet: String,
    hotkey_name: String,
    encryption: Encryption,
    /// Absent when the file is closed and there is no public file beside it.
    hotkey: Option<String>,
    /// Absent when the file is closed.
    can_sign: Option<bool>,
    coldkey: Option<Coldkey>,
    throwaway: bool,
    warnings: Vec<String>,
}

/// `wallet show` for settings from wherever. A closed key file is shown by its public half.
pub fn show(settings: &WalletSettings, json: bool) -> anyhow::Result<ExitStatus> {
    let shown = look(settings)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
        return Ok(ExitStatus::Done);
    }
    let unknown = || "unknown".to_string();
    writeln!(out, "wallet     {} / {}", shown.wallet, shown.hotkey_name)?;
    writeln!(out, "key file   {}", shown.keyfile.display())?;
    writeln!(out, "           {}", shown.encryption)?;
    writeln!(out, "hotkey     {}", shown.hotkey.unwrap_or_else(unknown))?;
    writeln!(out, "coldkey    {}", shown.coldkey.map_or_else(unknown, |key| key.to_ss58()))?;
    let signs = match shown.can_sign {
        Some(true) => "yes",
        Some(false) => "no, it holds only the public half",
        None => "not known without its password",
    };
    writeln!(out, "can sign   {signs}")?;
    if shown.throwaway {
        writeln!(out, "throwaway  yes, its secret is published: never fund it")?;
    }
    for warning in &shown.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitStatus::Done)
}

fn look(settings: &WalletSettings) -> anyhow::Result<Shown> {
    let paths = settings.paths()?;
    let (hotkey, can_sign, encryption, coldkey, warnings) =
        match Wallet::open(settings, &PasswordSources::of_process()) {
            Ok(wallet) => {
                let warnings = wallet.warnings().iter().map(ToString::to_string).collect();
                let hotkey = Some(wallet.hotkey().to_ss58());
                (hotkey, Some(true), wallet.encryption(), wallet.coldkey().copied(), warnings)
            }
            Err(
                error @ (WalletError::PublicOnly { .. }
                | WalletError::Password(PasswordError::Missing { .. })),
            ) => {
                let mut warnings = vec![error.to_string()];
                let mut noted = |warning: crate::wallet::WalletWarning| warnings.push(warning.to_string());
                let public = paths.read_hotkey_public().map_err(&mut noted).ok().flatten();
                let coldkey = paths.read_coldkey_public().map_err(&mut noted).ok().flatten();
                let encryption = Keyfile::read(&paths.hotkey)?.encryption();
                match error {
                    WalletError::PublicOnly { address, .. } => {
                        (Some(address), Some(false), encryption, coldkey, warnings)
                    }
                    _ => (public.map(|key| key.to_ss58()), None, encryption, coldkey, warnings),
                }
            }
            Err(error) => return Err(error.into()),
        };
    let throwaway = hotkey
        .as_deref()
        .and_then(|address| address.parse::<Hotkey>().ok())
        .is_some_and(|key| is_throwaway(&key));
    Ok(Shown {
        keyfile: paths.hotkey,
        wallet: settings.name.clone(),
        hotkey_name: settings.hotkey.clone(),
        encryption,
        hotkey,
        can_sign,
        coldkey,
        throwaway,
        warnings,
    })
}

/// `wallet check` for settings from wherever.
pub fn check(settings: &WalletSettings, json: bool) -> anyhow::Result<ExitStatus> {
    let findings = inspect(settings, &PasswordSources::of_process());
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for Finding { check, verdict, message } in &findings {
            let verdict = match verdict {
                Verdict::Pass => "pass",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            writeln!(out, "{verdict}  {check:<12} {message}")?;
        }
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { ExitStatus::Failure } else { ExitStatus::Done })
}
