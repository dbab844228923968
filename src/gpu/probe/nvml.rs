//! The driver's own library, NVML, loaded at run time: a machine without it runs all the same.
//!
//! Cards are known by UUID; indexes differ between processes (`CUDA_VISIBLE_DEVICES`) and are used
//! for nothing but listing. Calls block, so they run off the async threads, one at a time: a driver
//! that hangs holds one thread, and everybody else is told so.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml as Driver};
use tokio::sync::Mutex;

use super::{Basis, ProbeError, ProcessMemory, Reading, VramProbe};
use crate::primitives::{MiB, Untrusted};

/// Its names on Linux; the second belongs to development packages.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// No card has more. An unknown figure is 2^64-1.
const MOST: u64 = 1 << 40;

/// The library, for any number of cards.
#[derive(Debug, Clone)]
pub struct NvmlLibrary {
    path: Option<Arc<Path>>,
    patience: Duration,
    /// Loaded by the first call, and again after an error from which it does not recover by itself.
    driver: Arc<Mutex<Option<Driver>>>,
}

/// A card that the driver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub uuid: String,
    /// As sold.
    pub name: String,
    pub total: MiB,
}

/// What the driver lists.
#[derive(Debug, Default)]
pub struct Cards {
    pub found: Vec<Card>,
    /// Cards that are counted and cannot be asked: lost ones among them.
    pub unreadable: Vec<ProbeError>,
}

impl Cards {
    /// The card that the configuration means: by UUID, or `auto` where there is one.
    ///
    /// # Errors
    /// [`ProbeError::Gone`] for a UUID that is not there; [`ProbeError::Failed`] when `auto` leaves a
    /// choice.
    pub fn named(&self, wanted: &str) -> Result<&Card, ProbeError> {
        let listed = || self.found.iter().map(|card| &*card.uuid).collect::<Vec<_>>().join(", ");
        if wanted != "auto" {
            let card = self.found.iter().find(|card| card.uuid.eq_ignore_ascii_case(wanted));
            return card.ok_or_else(|| ProbeError::Gone(wanted.to_owned()));
        }
        match &self.found[..] {
            [card] => Ok(card),
            [] => Err(ProbeError::Failed("no card is listed".into())),
            _ => Err(ProbeError::Failed(format!("several cards are there, name one: {}", listed()))),
        }
    }
}

impl NvmlLibrary {
    /// `path`: of the library, where it is not the system's own. `patience`: longest wait for one
    /// answer. Nothing is loaded yet.
    pub fn new(path: Option<PathBuf>, patience: Duration) -> Self {
        Self { path: path.map(Arc::from), patience, driver: Arc::default() }
    }

    /// The cards that the driver knows.
    ///
    /// # Errors
    /// See [`ProbeError`]; [`ProbeError::Absent`] on a machine without the driver.
    pub async fn list_cards(&self) -> Result<Cards, ProbeError> {
        self.ask(list).await
    }

    /// The same, for those that cannot wait for anything else meanwhile. A driver that hangs keeps the
    /// thread that asks it, and nobody longer than `patience`.
    ///
    /// # Errors
    /// See [`list_cards`](Self::list_cards).
    pub fn list_cards_now(&self) -> Result<Cards, ProbeError> {
        let (say, heard) = std::sync::mpsc::sync_channel(1);
        let path = self.path.clone();
        std::thread::spawn(move || {
            let listed = load(path.as_deref()).and_then(|driver| list(&driver));
            // Nobody may wait any more.
            drop(say.send(listed));
        });
        heard.recv_timeout(self.patience).unwrap_or(Err(ProbeError::Silent(self.patience)))
    }

    /// A probe of one card.
    pub fn card(&self, uuid: &str) -> Nvml {
        Nvml { library: self.clone(), uuid: uuid.into() }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Driver) -> Result<T, ProbeError> + Send + 'static,
    ) -> Result<T, ProbeError> {
        let path = self.path.clone();
        let asked = async {
            let mut driver = Arc::clone(&self.driver).lock_owned().await;
            let answer = tokio::task::spawn_blocking(move || {
                let loaded = match driver.take() {
                    Some(loaded) => loaded,
                    None => load(path.as_deref())?,
                };
                let answer = question(&loaded);
                // Cards are enumerated when it is loaded: one that comes back is seen by a new start.
                if !matches!(answer, Err(ProbeError::Gone(_) | ProbeError::Failed(_))) {
                    *driver = Some(loaded);
                }
                answer
            });
            answer.await.unwrap_or_else(|error| Err(ProbeError::Failed(error.to_string())))
        };
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(ProbeError::Silent(self.patience)))
    }
}

fn load(path: Option<&Path>) -> Result<Driver, ProbeError> {
    let load = |name: &OsStr| Driver::builder().lib_path(name).init();
    if let Some(path) = path {
        return load(path.as_os_str()).map_err(|error| absent(&error));
    }
    let [first, second] = NAMES;
    match load(first.as_ref()) {
        Err(NvmlError::LibloadingError(error)) => {
            // The first name is the one that is missed.
            load(second.as_ref()).map_err(|_| absent(&NvmlError::LibloadingError(error)))
        }
        loaded => loaded.map_err(|error| absent(&error)),
    }
}

fn absent(error: &NvmlError) -> ProbeError {
    ProbeError::Absent(Untrusted::error(&error.to_string()).to_string())
}

fn list(driver: &Driver) -> Result<Cards, ProbeError> {
    let mut cards = Cards::default();
    for index in 0..driver.device_count().map_err(|error| failure(error, "any"))? {
        match card(driver, index) {
            Ok(card) => cards.found.push(card),
            Err(error) => cards.unreadable.push(error),
        }
    }
    Ok(cards)
}

fn card(driver: &Driver, index: u32) -> Result<Card, ProbeError> {
    let failed = |error| failure(error, &format!("number {index}"));
    let device = driver.device_by_index(index).map_err(failed)?;
    let uuid = device.uuid().map_err(failed)?;
    let name = device.name().map_err(failed)?;
    let total = device.memory_info().map_err(failed)?.total;
    if !(1..=MOST).contains(&total) {
        return Err(ProbeError::Implausible(format!("{uuid} has {total} bytes")));
    }
    Ok(Card { uuid, name: Untrusted::new(&name).to_string(), total: mib(total) })
}

fn failure(error: NvmlError, card: &str) -> ProbeError {
    match error {
        NvmlError::GpuLost | NvmlError::NotFound | NvmlError::ResetRequired | NvmlError::InvalidArg => {
            ProbeError::Gone(card.to_owned())
        }
        NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch | NvmlError::NotSupported => {
            absent(&error)
        }
        error => ProbeError::Failed(error.to_string()),
    }
}

const fn mib(bytes: u64) -> MiB {
    MiB(bytes >> 20)
}

/// One card, by the driver.
#[derive(Debug, Clone)]
pub struct Nvml {
    library: NvmlLibrary,
    uuid: Arc<str>,
}

impl Nvml {
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

impl VramProbe for Nvml {
    fn read(&self) -> BoxFuture<'_, Result<Reading, ProbeError>> {
        let uuid = Arc::clone(&self.uuid);
        Box::pin(self.library.ask(move |driver| reading(driver, &uuid)))
    }

    fn basis(&self) -> Basis {
        Basis::Driver
    }
}

fn reading(driver: &Driver, uuid: &str) -> Result<Reading, ProbeError> {
    let failed = |error| failure(error, uuid);
    let device = driver.device_by_uuid(uuid).map_err(failed)?;
    let memory = device.memory_info().map_err(failed)?;
    if !(1..=MOST).contains(&memory.total) || memory.free > memory.total {
        let said = format!("{uuid} has {} of {} bytes free", memory.free, memory.total);
        return Err(ProbeError::Implausible(said));
    }
    let mut reading = Reading::new(mib(memory.total), mib(memory.free));
    reading.processes = processes(&device, memory.total).map_err(failed)?;
    // Not known inside a MIG slice, among others.
    reading.activity = device.utilization_rates().ok().and_then(|rates| u8::try_from(rates.gpu).ok());
    Ok(reading)
}

/// Compute and graphics processes. One that is both is listed twice, with the same memory.
fn processes(device: &Device<'_>, total: u64) -> Result<Option<Vec<ProcessMemory>>, NvmlError> {
    let compute = listed(|| device.running_compute_processes())?;
    let graphics = listed(|| device.running_graphics_processes())?;
    // Without the second list the first is still of use: workers compute.
    let Some(compute) = compute else { return Ok(None) };
    let mut found: BTreeMap<u32, Option<MiB>> = BTreeMap::new();
    for ProcessInfo { pid, used_gpu_memory, .. } in compute.into_iter().chain(graphics.unwrap_or_default()) {
        let used = match used_gpu_memory {
            UsedGpuMemory::Used(bytes) if bytes <= total => Some(mib(bytes)),
            // 2^64-1, and what is as good as that.
            UsedGpuMemory::Used(_) | UsedGpuMemory::Unavailable => None,
        };
        let known = found.entry(pid).or_default();
        *known = (*known).max(used);
    }
    Ok(Some(found.into_iter().map(|(pid, used)| ProcessMemory { pid, used }).collect()))
}

/// `None` for a list that the driver does not give; a card that is lost meanwhile is an error.
fn listed(
    list: impl Fn() -> Result<Vec<ProcessInfo>, NvmlError>,
) -> Result<Option<Vec<ProcessInfo>>, NvmlError> {
    // More processes began since they were counted.
    let list = match list() {
        Err(NvmlError::InsufficientSize(_)) => list(),
        once => once,
    };
    match list {
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => Err(error),
        list => Ok(list.ok()),
    }
}
