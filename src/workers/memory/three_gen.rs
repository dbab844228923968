//! The hand-off verbs of VAL-HO (workers.md section 3). Sizes are GiB, whatever their names say.

use super::figures::{Device, Unit};
use super::{
    Answer, Asked, Claim, Implausible, Outcome, Verb, VerbError, WorkerMemory, granted, object, quoted,
};

const NO_VERBS: &str = ": the official validation service has no hand-off verbs";

/// 200 in every case; what happened is in the body.
pub(super) async fn verb(asked: &Asked<'_>, verb: Verb) -> Result<Outcome, VerbError> {
    let (path, done) = match verb {
        Verb::Unload => ("/unload_models/", Some("models_unloaded")),
        Verb::Load => ("/reload_models/", Some("models_reloaded")),
        Verb::Cleanup => ("/cleanup_gpu/", None),
    };
    let reply = granted(asked.post(path, None).await?, path, NO_VERBS)?;
    // A figure like NaN spoils the answer and says nothing of the verb.
    let answer = match object(&reply, path) {
        Err(VerbError::Implausible(implausible)) => {
            return Ok(Outcome { implausible: Some(implausible), ..Claim::Accepted.into() });
        }
        answer => answer?,
    };
    let failed = answer.text("status") == Some("error") || answer.has("error");
    let claim = match done.map(|key| (key, answer.flag(key))) {
        _ if failed => Claim::Failed(quoted(answer.text("error"))),
        Some((key, Some(false))) => Claim::Failed(format!("{key} is false")),
        Some((_, Some(true))) => Claim::Done,
        None if answer.has("gpu_available") => Claim::Done,
        Some((key, None)) => return Err(VerbError::Unreadable { path, why: format!("no {key} in it") }),
        None => return Err(VerbError::Unreadable { path, why: "no gpu_available in it".into() }),
    };
    let notes = [
        ("restored_from_backup", "restored from its backup"),
        // Without a backup it was not unloaded before: for a while there are two of everything.
        ("reinitialized", "built anew without having been unloaded"),
        ("fallback_reinitialized", "built anew after a failure"),
    ];
    let note = notes.into_iter().find(|(key, _)| answer.flag(key) == Some(true)).map(|(_, note)| note);
    Ok(Outcome { note, ..claim.into() }.with_figures(figures(&answer)))
}

pub(super) async fn status(asked: &Asked<'_>) -> Result<WorkerMemory, VerbError> {
    let path = "/gpu_status/";
    let answer = object(&granted(asked.get(path).await?, path, NO_VERBS)?, path)?;
    if answer.flag("gpu_available").is_none() {
        return Err(VerbError::Unreadable { path, why: "no gpu_available in it".into() });
    }
    Ok(figures(&answer)?)
}

fn figures(answer: &Answer) -> Result<WorkerMemory, Implausible> {
    // The answer to the unload verb has its own names. Its `memory_freed_gb` is a difference of the
    // device's memory, negative when somebody else took some meanwhile, and not used.
    let either = |a, b| Ok::<_, Implausible>(answer.figure(a, Unit::GiB)?.or(answer.figure(b, Unit::GiB)?));
    let device = Device {
        total: either("memory_total_gb", "total_memory_gb")?,
        free: either("memory_free_gb", "free_memory_gb")?,
        used: either("memory_used_gb", "memory_after_gb")?,
    }
    .checked()?;
    Ok(WorkerMemory {
        device_total: device.total,
        device_free: device.free,
        own: None,
        models_loaded: None,
        gpu_enabled: answer.flag("gpu_available"),
    })
}
