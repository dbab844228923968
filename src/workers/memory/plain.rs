//! The cache verb, `/memory/*`, and workers with nothing but a health route (workers.md sections 1,
//! 4 and 5).

use http::{Method, StatusCode};

use super::figures::{Device, Unit};
use super::{
    Answer, Asked, CacheFigure, Claim, Implausible, Outcome, Verb, VerbError, WorkerMemory, WorkerWord,
    granted, object, quoted,
};

/// Frees cached blocks; the figure is in 10^9 bytes.
pub(super) async fn clear_cache(asked: &Asked<'_>, figure: CacheFigure) -> Result<Outcome, VerbError> {
    let path = "/clear_cache/";
    let answer = object(&granted(asked.post(path, None).await?, path, "")?, path)?;
    let claim = match answer.text("status") {
        Some("cache_cleared") => Claim::Done,
        said => Claim::Failed(quoted(said)),
    };
    let free = answer.figure("available_memory_gb", Unit::GB).map(|free| match figure {
        CacheFigure::Free => free,
        CacheFigure::WithoutOwn => None,
    });
    let figures = free.map(|device_free| WorkerMemory { device_free, ..WorkerMemory::default() });
    Ok(Outcome::from(claim).with_figures(figures))
}

pub(super) async fn memory(
    asked: &Asked<'_>,
    verb: Verb,
    part: Option<&WorkerWord>,
) -> Result<Outcome, VerbError> {
    let path = match verb {
        Verb::Load => "/memory/load",
        _ => "/memory/unload",
    };
    let mut url = asked.url(path);
    if let Some(part) = part {
        url.query_pairs_mut().append_pair("which", part.as_str());
    }
    let answer = object(&granted(asked.reply(Method::POST, path, url, None).await?, path, "")?, path)?;
    match answer.flag("success") {
        // The chat worker says this of every unload. Memory comes back later: caches are emptied
        // before what fills them is collected.
        Some(true) => Ok(Claim::Done.into()),
        Some(false) => Ok(Claim::Failed(quoted(answer.text("message"))).into()),
        None => Err(VerbError::Unreadable { path, why: "no success in it".into() }),
    }
}

pub(super) async fn memory_status(
    asked: &Asked<'_>,
    part: Option<&WorkerWord>,
) -> Result<WorkerMemory, VerbError> {
    let path = "/memory/status";
    let reply = asked.get(path).await?;
    // Without a card it answers 500 and says so.
    if reply.status == StatusCode::INTERNAL_SERVER_ERROR
        && Answer::read(&reply.body).is_ok_and(|answer| answer.text("error") == Some("CUDA not available"))
    {
        return Ok(WorkerMemory { gpu_enabled: Some(false), ..WorkerMemory::default() });
    }
    let answer = object(&granted(reply, path, "")?, path)?;
    let total = answer.figure("total_vram", Unit::GiB)?;
    let own = answer.figure("allocated_vram", Unit::GiB)?;
    let available = answer.figure("available_vram", Unit::GiB)?;
    if total.is_none() {
        return Err(VerbError::Unreadable { path, why: "no total_vram in it".into() });
    }
    // What it calls available is the total without its own: no other process is seen.
    Device { total, free: available, used: own }.checked()?;
    let models_loaded = loaded(&answer, part);
    let on_cpu = devices(&answer, part).any(|device| device.starts_with("cpu"));
    let nothing_there = models_loaded == Some(true) && own.is_some_and(|own| own.0 == 0);
    Ok(WorkerMemory {
        device_total: total,
        device_free: None,
        own,
        models_loaded,
        gpu_enabled: Some(!on_cpu && !nothing_there),
    })
}

/// The video worker says nothing under the common name, and `null` for a worker that is not there.
fn loaded(answer: &Answer, part: Option<&WorkerWord>) -> Option<bool> {
    if let Some(part) = part.filter(|part| part.as_str() != "all") {
        return [format!("{part}_model_loaded"), format!("{part}_loaded")]
            .iter()
            .find_map(|k| answer.flag(k));
    }
    const FLAGS: &[&str] = &[
        "model_loaded",
        "pipeline_loaded",
        "i2i_pipeline_loaded",
        "qwen_model_loaded",
        "wan_model_loaded",
        "instruct_loaded",
        "base_loaded",
    ];
    let said: Vec<_> = FLAGS.iter().filter(|key| answer.has(key)).map(|key| answer.flag(key)).collect();
    if said.contains(&Some(true)) {
        return Some(true);
    }
    (!said.is_empty() && !said.contains(&None)).then_some(false)
}

/// Where the chat worker has its models: `cuda:0`, or `cpu` when they did not fit.
fn devices<'a>(answer: &'a Answer, part: Option<&WorkerWord>) -> impl Iterator<Item = &'a str> {
    let keys: &[&str] = match part.map(WorkerWord::as_str) {
        Some("instruct") => &["instruct_device"],
        Some("base") => &["base_device"],
        _ => &["instruct_device", "base_device"],
    };
    keys.iter().filter_map(|key| answer.text(key))
}

/// What a health route says beyond being there (HLT, GEN-TRJ). A worker without one says nothing.
pub(super) async fn health(asked: &Asked<'_>, path: &'static str) -> Result<WorkerMemory, VerbError> {
    let reply = match asked.get(path).await {
        // Not the route of this worker, which answers all the same.
        Err(VerbError::Redirected { .. }) => return Ok(WorkerMemory::default()),
        reply => reply?,
    };
    if matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return Ok(WorkerMemory::default());
    }
    let reply = granted(reply, path, "")?;
    match object(&reply, path) {
        // Such as `OK`.
        Err(VerbError::Unreadable { .. }) => Ok(WorkerMemory::default()),
        answer => Ok(health_figures(&answer?)?),
    }
}

pub(in crate::workers) fn health_figures(answer: &Answer) -> Result<WorkerMemory, Implausible> {
    Ok(WorkerMemory {
        own: answer.text_figure("gpu_memory_allocated")?,
        models_loaded: answer.flag("model_loaded"),
        gpu_enabled: answer.flag("gpu_enabled").or_else(|| answer.flag("gpu_available")),
        ..WorkerMemory::default()
    })
}
