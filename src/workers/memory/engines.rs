//! Engines with unload verbs of their own (workers.md section 7).

use http::{Method, StatusCode};
use serde_json::json;

use super::figures::{Device, Unit};
use super::{
    Answer, Asked, Claim, Implausible, MemoryDialect, MiB, Outcome, SleepLevel, Verb, VerbError,
    WorkerMemory, WorkerWord, granted, object, quoted,
};

/// A verb of a dialect that carries it out by a call.
pub(super) async fn verb(
    asked: &Asked<'_>,
    verb: Verb,
    dialect: &MemoryDialect,
) -> Result<Outcome, VerbError> {
    let claim = match dialect {
        MemoryDialect::Vllm { level, tags } => match verb {
            Verb::Load => wake(asked, *level, tags).await?,
            _ => sleep(asked, *level, tags).await?,
        },
        MemoryDialect::Comfy => free(asked).await?,
        MemoryDialect::Ollama(model) => ollama(asked, verb, model.as_ref()).await?,
        MemoryDialect::LlamaSwap(model) => llama_swap(asked, verb, model.as_ref()).await?,
        MemoryDialect::Triton(model) => triton(asked, verb, model).await?,
        MemoryDialect::ThreeGen
        | MemoryDialect::ClearCache(_)
        | MemoryDialect::Memory(_)
        | MemoryDialect::Process
        | MemoryDialect::Nothing => {
            let instead = dialect.means(verb);
            return Err(VerbError::Unsupported { verb, dialect: dialect.name(), instead });
        }
    };
    Ok(claim.into())
}

pub(super) async fn status(asked: &Asked<'_>, dialect: &MemoryDialect) -> Result<WorkerMemory, VerbError> {
    let models_loaded = match dialect {
        MemoryDialect::Comfy => return system_stats(asked).await,
        MemoryDialect::Ollama(model) => return ollama_status(asked, model.as_ref()).await,
        MemoryDialect::Vllm { .. } => is_awake(asked).await?,
        MemoryDialect::LlamaSwap(model) => is_running(asked, model.as_ref()).await?,
        MemoryDialect::Triton(model) => is_ready(asked, model).await?,
        MemoryDialect::ThreeGen
        | MemoryDialect::ClearCache(_)
        | MemoryDialect::Memory(_)
        | MemoryDialect::Process
        | MemoryDialect::Nothing => None,
    };
    Ok(WorkerMemory { models_loaded, ..WorkerMemory::default() })
}

const SLEEP_MODE: &str = ": it needs --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1";

/// With a frontend process of its own, vLLM answers before it sleeps.
async fn sleep(asked: &Asked<'_>, level: SleepLevel, tags: &[WorkerWord]) -> Result<Claim, VerbError> {
    let level = match level {
        SleepLevel::Keep => "1",
        SleepLevel::Drop => "2",
    };
    let mut url = asked.url("/sleep");
    url.query_pairs_mut()
        .append_pair("level", level)
        .extend_pairs(tags.iter().map(|tag| ("tags", tag.as_str())));
    granted(asked.reply(Method::POST, "/sleep", url, None).await?, "/sleep", SLEEP_MODE)?;
    Ok(Claim::Accepted)
}

async fn wake(asked: &Asked<'_>, level: SleepLevel, tags: &[WorkerWord]) -> Result<Claim, VerbError> {
    let mut url = asked.url("/wake_up");
    if !tags.is_empty() {
        url.query_pairs_mut().extend_pairs(tags.iter().map(|tag| ("tags", tag.as_str())));
    }
    granted(asked.reply(Method::POST, "/wake_up", url, None).await?, "/wake_up", SLEEP_MODE)?;
    if level == SleepLevel::Keep {
        return Ok(Claim::Accepted);
    }
    // It is awake with no weights, and answers nonsense until they are read again.
    let path = "/collective_rpc";
    let reload = json!({"method": "reload_weights"});
    let reloaded = asked.post(path, Some(&reload)).await.and_then(|reply| granted(reply, path, SLEEP_MODE));
    if let Err(error) = reloaded {
        return Ok(Claim::Failed(format!("awake without its weights: {error}")));
    }
    let path = "/reset_prefix_cache";
    let reset = asked.post(path, None).await.and_then(|reply| granted(reply, path, SLEEP_MODE));
    match reset {
        Ok(_) => Ok(Claim::Accepted),
        Err(error) => Ok(Claim::Failed(format!("awake with the cache of before: {error}"))),
    }
}

async fn is_awake(asked: &Asked<'_>) -> Result<Option<bool>, VerbError> {
    let path = "/is_sleeping";
    let answer = object(&granted(asked.get(path).await?, path, SLEEP_MODE)?, path)?;
    match answer.flag("is_sleeping") {
        Some(sleeping) => Ok(Some(!sleeping)),
        None => Err(VerbError::Unreadable { path, why: "no is_sleeping in it".into() }),
    }
}

/// The 200 sets a flag; the thread that runs prompts sees it when it is done with the present one.
async fn free(asked: &Asked<'_>) -> Result<Claim, VerbError> {
    let order = json!({"unload_models": true, "free_memory": true});
    granted(asked.post("/free", Some(&order)).await?, "/free", "")?;
    Ok(Claim::Accepted)
}

async fn system_stats(asked: &Asked<'_>) -> Result<WorkerMemory, VerbError> {
    let path = "/system_stats";
    let unreadable = |why: &str| VerbError::Unreadable { path, why: why.into() };
    let answer = object(&granted(asked.get(path).await?, path, "")?, path)?;
    let devices = answer.objects("devices").ok_or_else(|| unreadable("no devices in it"))?;
    let [device] = &devices[..] else {
        return Err(unreadable(&format!("{} devices, where it uses one", devices.len())));
    };
    if device.text("type") == Some("cpu") {
        return Ok(WorkerMemory { gpu_enabled: Some(false), ..WorkerMemory::default() });
    }
    let total = device.figure("vram_total", Unit::Bytes)?;
    let free = device.figure("vram_free", Unit::Bytes)?;
    let own = device.figure("torch_vram_total", Unit::Bytes)?;
    // Memory that its allocator holds and does not use counts as free for itself, and for nobody else.
    let kept = device.figure("torch_vram_free", Unit::Bytes)?;
    if total.is_none() {
        return Err(unreadable("no vram_total in it"));
    }
    Device { total, free, used: None }.checked()?;
    Device { total, free: kept, used: None }.checked()?;
    Device { total, free: None, used: own }.checked()?;
    let device_free = free.map(|free| MiB(free.0.saturating_sub(kept.map_or(0, |kept| kept.0))));
    Ok(WorkerMemory { device_total: total, device_free, own, models_loaded: None, gpu_enabled: Some(true) })
}

/// No prompt and a time to keep the model for: 0 unloads, -1 loads for good.
async fn ollama(asked: &Asked<'_>, verb: Verb, model: Option<&WorkerWord>) -> Result<Claim, VerbError> {
    let (keep_alive, reason) = match verb {
        Verb::Load => (-1, "load"),
        _ => (0, "unload"),
    };
    let models = match model {
        Some(model) => vec![model.to_string()],
        None => loaded_models(asked)
            .await?
            .iter()
            .filter_map(|model| model.text("name").map(str::to_owned))
            .collect(),
    };
    let path = "/api/generate";
    for model in models {
        let order = json!({"model": model, "keep_alive": keep_alive, "stream": false});
        let reply = asked.post(path, Some(&order)).await?;
        // Unknown models are 404 as well, with a reason.
        if reply.status == StatusCode::NOT_FOUND
            && let Some(error) =
                Answer::read(&reply.body).ok().as_ref().and_then(|answer| answer.text("error"))
        {
            return Ok(Claim::Failed(quoted(Some(error))));
        }
        let answer = object(&granted(reply, path, "")?, path)?;
        if answer.flag("done") != Some(true) || answer.text("done_reason") != Some(reason) {
            let said = answer.text("error").or_else(|| answer.text("done_reason"));
            return Ok(Claim::Failed(quoted(said)));
        }
    }
    Ok(Claim::Done)
}

async fn loaded_models(asked: &Asked<'_>) -> Result<Vec<Answer>, VerbError> {
    let path = "/api/ps";
    let answer = object(&granted(asked.get(path).await?, path, "")?, path)?;
    answer.objects("models").ok_or_else(|| VerbError::Unreadable { path, why: "no models in it".into() })
}

async fn ollama_status(asked: &Asked<'_>, model: Option<&WorkerWord>) -> Result<WorkerMemory, VerbError> {
    let models = loaded_models(asked).await?;
    let mut own = MiB(0);
    let mut loaded = false;
    let mut on_cpu = false;
    for found in &models {
        let size = found.figure("size_vram", Unit::Bytes)?.unwrap_or(MiB(0));
        own = MiB(own.0 + size.0);
        let named = found.text("name").unwrap_or_default();
        let wanted = model.is_none_or(|model| {
            named == model.as_str() || named.strip_suffix(":latest") == Some(model.as_str())
        });
        if wanted {
            loaded = true;
            on_cpu |= size.0 == 0;
        }
    }
    Unit::MiB
        .to_mib(own.0 as f64)
        .map_err(|why| Implausible::new("the sum of size_vram", &own.to_string(), why))?;
    Ok(WorkerMemory {
        device_total: None,
        device_free: None,
        own: Some(own),
        models_loaded: Some(loaded),
        gpu_enabled: loaded.then_some(!on_cpu),
    })
}

/// Unloading answers when the process has exited; loading is a request that names the model.
async fn llama_swap(asked: &Asked<'_>, verb: Verb, model: Option<&WorkerWord>) -> Result<Claim, VerbError> {
    match (verb, model) {
        (Verb::Load, Some(model)) => {
            // Any path of the model's server will do; this one has a short answer in most.
            let path = "/upstream/";
            let url = asked.url(&format!("{path}{model}/health"));
            match asked.reply(Method::GET, path, url, None).await {
                Err(VerbError::Redirected { .. }) => Ok(Claim::Done),
                reply => {
                    let reply = reply?;
                    if reply.status.is_server_error() || reply.status == StatusCode::TOO_MANY_REQUESTS {
                        granted(reply, path, "")?;
                    }
                    Ok(Claim::Done)
                }
            }
        }
        (_, Some(model)) => {
            let path = "/api/models/unload/";
            let url = asked.url(&format!("{path}{model}"));
            granted(asked.reply(Method::POST, path, url, None).await?, path, ", or not this model")?;
            Ok(Claim::Done)
        }
        (_, None) => {
            let path = "/api/models/unload";
            granted(asked.post(path, None).await?, path, "")?;
            Ok(Claim::Done)
        }
    }
}

async fn is_running(asked: &Asked<'_>, model: Option<&WorkerWord>) -> Result<Option<bool>, VerbError> {
    let path = "/running";
    let answer = object(&granted(asked.get(path).await?, path, "")?, path)?;
    let running = answer
        .objects("running")
        .ok_or_else(|| VerbError::Unreadable { path, why: "no list of running in it".into() })?;
    let wanted = |found: &&Answer| model.is_none_or(|model| found.text("model") == Some(model.as_str()));
    let states: Vec<_> = running.iter().filter(wanted).map(|found| found.text("state")).collect();
    // One that starts or stops is neither.
    let changing = states.iter().any(|state| *state != Some("ready"));
    Ok((!changing).then_some(!states.is_empty()))
}

const EXPLICIT: &str = ": it needs --model-control-mode=explicit";

/// The framework below may keep the memory (workers.md section 7).
async fn triton(asked: &Asked<'_>, verb: Verb, model: &WorkerWord) -> Result<Claim, VerbError> {
    let order = match verb {
        Verb::Load => "load",
        _ => "unload",
    };
    let path = "/v2/repository/models/";
    let url = asked.url(&format!("{path}{model}/{order}"));
    granted(asked.reply(Method::POST, path, url, Some(&json!({}))).await?, path, EXPLICIT)?;
    Ok(Claim::Accepted)
}

async fn is_ready(asked: &Asked<'_>, model: &WorkerWord) -> Result<Option<bool>, VerbError> {
    let path = "/v2/repository/index";
    let reply = granted(asked.post(path, Some(&json!({}))).await?, path, "")?;
    let Some(models) = Answer::list(&reply.body) else {
        return Err(VerbError::Unreadable { path, why: "no list of models".into() });
    };
    let states: Vec<_> = models
        .iter()
        .filter(|found| found.text("name") == Some(model.as_str()))
        .map(|found| found.text("state"))
        .collect();
    if states.iter().any(|state| matches!(state, Some("LOADING" | "UNLOADING"))) {
        return Ok(None);
    }
    Ok(Some(states.contains(&Some("READY"))))
}
