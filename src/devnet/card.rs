//! A card's memory, as far as worker processes share one: a ledger in a file.
//!
//! Each process has one row with its id, its start time and what it holds. A row of a process that has
//! died counts for nothing, as the driver takes the memory of a killed process back: ids are used
//! again, ids with start times are not. Nobody can hold more than the card has; who asks for more is
//! out of memory, and that is written down.
//!
//! The file has the text format of the tests' stand-in for the driver's library, so that both show
//! the same figures. It is replaced whole under a lock; readers need none. What happens is besides
//! appended to a log, `FILE.log`: `NANOSECONDS PID NAME WHAT`.
//!
//! Limits: Linux only, by `/proc`; a process has one row on one card.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::primitives::{MiB, UnixTime};

/// What the card is called, where a driver has the name it was sold under.
const NAME: &str = "Development card";

/// A ledger's file.
#[derive(Debug, Clone)]
pub struct CardLedger {
    file: PathBuf,
    clock: Clock,
}

/// One process on the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// When it started, in the kernel's ticks since the machine did.
    started: u64,
    pub held: MiB,
    pub name: String,
}

/// The card at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CardState {
    pub uuid: String,
    pub total: MiB,
    /// Processes that live.
    pub holders: Vec<Holder>,
    /// The most that was ever held.
    pub most: MiB,
    /// How often somebody was out of memory.
    pub refused: u64,
    /// How many processes ever had a row.
    pub starts: u64,
}

impl CardState {
    pub fn used(&self) -> MiB {
        self.holders.iter().map(|holder| holder.held).sum()
    }

    pub fn free(&self) -> MiB {
        self.total.saturating_sub(self.used())
    }

    /// What the processes of this name hold; nothing if there is none.
    pub fn held_by(&self, name: &str) -> Option<MiB> {
        let mut found = self.holders.iter().filter(|holder| holder.name == name).peekable();
        found.peek()?;
        Some(found.map(|holder| holder.held).sum())
    }
}

/// Something that happened on the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Our clock.
    pub at: UnixTime,
    pub pid: u32,
    pub name: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// From now on it holds so much.
    Holds(MiB),
    OutOfMemory,
    /// A request came: its method and path.
    Asked(String),
    /// A fault struck.
    Fault(String),
    /// It is gone of its own will.
    Left,
}

/// Memory that is not given.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    #[error("out of memory: {wanted} wanted, {free} free")]
    OutOfMemory { wanted: MiB, free: MiB },
    #[error("the card's ledger: {0}")]
    Io(#[from] io::Error),
}

impl CardLedger {
    /// The ledger in `file`, which is made for an empty card if it is not there.
    ///
    /// # Errors
    /// When it cannot be read or made, or a name has blanks in it.
    pub fn open(file: &Path, uuid: &str, total: MiB, clock: Clock) -> io::Result<Self> {
        word(uuid)?;
        let ledger = Self { file: file.to_owned(), clock };
        let lock = ledger.lock()?;
        if !file.exists() {
            ledger.write(&CardState { uuid: uuid.to_owned(), total, ..CardState::default() })?;
        }
        drop(lock);
        Ok(ledger)
    }

    /// # Errors
    /// When there is no ledger.
    pub fn read(&self) -> io::Result<CardState> {
        parse(&fs::read_to_string(&self.file)?).ok_or_else(|| self.broken())
    }

    /// Has this process hold so much in all, less or more than before.
    ///
    /// # Errors
    /// [`HoldError::OutOfMemory`] if the card has not that much, and then nothing changes.
    pub fn hold(&self, name: &str, amount: MiB) -> Result<(), HoldError> {
        word(name)?;
        let _lock = self.lock()?;
        let mut state = self.read()?;
        let (pid, started) = own()?;
        let is_own = |holder: &Holder| (holder.pid, holder.started) == (pid, started);
        let before = state.holders.iter().find(|holder| is_own(holder)).map(|holder| holder.held);
        let free = state.free().saturating_add(before.unwrap_or_default());
        if amount > free {
            state.refused += 1;
            self.note(name, &What::OutOfMemory)?;
            self.write(&state)?;
            return Err(HoldError::OutOfMemory { wanted: amount, free });
        }
        state.starts += u64::from(before.is_none());
        state.holders.retain(|holder| !is_own(holder));
        state.holders.push(Holder { pid, started, held: amount, name: name.to_owned() });
        state.most = state.most.max(state.used());
        // Whoever sees the figure finds the event too.
        self.note(name, &What::Holds(amount))?;
        self.write(&state)?;
        Ok(())
    }

    /// Gives all of this process's memory back.
    ///
    /// # Errors
    /// When the file cannot be written; the row dies with the process then.
    pub fn leave(&self, name: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut state = self.read()?;
        let own = own()?;
        state.holders.retain(|holder| (holder.pid, holder.started) != own);
        self.note(name, &What::Left)?;
        self.write(&state)
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, name: &str, what: &What) -> io::Result<()> {
        let what = match what {
            What::Holds(amount) => format!("holds {}", amount.0),
            What::OutOfMemory => "out-of-memory".into(),
            What::Asked(what) => format!("asked {what}"),
            What::Fault(which) => format!("fault {which}"),
            What::Left => "left".into(),
        };
        let line = format!("{} {} {name} {what}\n", self.clock.now().as_nanos(), std::process::id());
        let mut log = OpenOptions::new().create(true).append(true).open(self.beside("log"))?;
        // In one piece: several processes append.
        log.write_all(line.as_bytes())
    }

    /// Everything that happened so far, in its order.
    ///
    /// # Errors
    /// When the log cannot be read. A line that is being written is left out.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        let text = match fs::read_to_string(self.beside("log")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut events: Vec<_> = whole.lines().filter_map(event).collect();
        events.sort_by_key(|event| event.at);
        Ok(events)
    }

    fn lock(&self) -> io::Result<File> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.beside("lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn write(&self, state: &CardState) -> io::Result<()> {
        let total = state.total.0 << 20;
        let mut lines = vec![
            format!("card {}", state.uuid),
            format!("name {NAME}"),
            format!("total {total}"),
            format!("free {total}"),
            format!("most {}", state.most.0 << 20),
            format!("refused {}", state.refused),
            format!("starts {}", state.starts),
        ];
        for Holder { pid, started, held, name } in &state.holders {
            lines.push(format!("held {pid} {} {started} {name}", held.0 << 20));
        }
        let new = self.beside("new");
        fs::write(&new, lines.join("\n") + "\n")?;
        fs::rename(new, &self.file)
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".");
        name.push(extension);
        name.into()
    }

    fn broken(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is no ledger", self.file.display()))
    }
}

/// Stands in a line of words.
fn word(text: &str) -> io::Result<()> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let what = format!("`{}` is no name for a ledger: a word without blanks", text.escape_debug());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}

fn parse(text: &str) -> Option<CardState> {
    let mut state = CardState::default();
    let mib = |bytes: &str| bytes.parse::<u64>().ok().map(|bytes| MiB(bytes >> 20));
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["card", uuid] => state.uuid = uuid.to_owned(),
            ["total", bytes] => state.total = mib(bytes)?,
            ["most", bytes] => state.most = mib(bytes)?,
            ["refused", count] => state.refused = count.parse().ok()?,
            ["starts", count] => state.starts = count.parse().ok()?,
            ["held", pid, bytes, started, name] => {
                let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
                if start_of(pid) == Some(started) {
                    state.holders.push(Holder { pid, started, held: mib(bytes)?, name: name.to_owned() });
                }
            }
            _ => {}
        }
    }
    (!state.uuid.is_empty() && state.total > MiB::ZERO).then_some(state)
}

fn event(line: &str) -> Option<Event> {
    let mut words = line.splitn(5, ' ');
    let at = UnixTime::from_nanos(words.next()?.parse().ok()?);
    let (pid, name) = (words.next()?.parse().ok()?, words.next()?.to_owned());
    let what = match (words.next()?, words.next()) {
        ("holds", Some(amount)) => What::Holds(MiB(amount.parse().ok()?)),
        ("out-of-memory", None) => What::OutOfMemory,
        ("asked", Some(what)) => What::Asked(what.to_owned()),
        ("fault", Some(which)) => What::Fault(which.to_owned()),
        ("left", None) => What::Left,
        _ => return None,
    };
    Some(Event { at, pid, name, what })
}

fn own() -> io::Result<(u32, u64)> {
    let pid = std::process::id();
    let started = start_of(pid);
    Ok((pid, started.ok_or_else(|| io::Error::other("/proc does not tell when this process began"))?))
}

/// When a process began; `None` if there is none, or only its exit status is left of it.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may have brackets and blanks in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    if matches!(fields.first()?, &"Z" | &"X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: MiB = MiB(24_576);

    fn ledger(folder: &Path) -> CardLedger {
        CardLedger::open(&folder.join("cards"), "GPU-0", CARD, Clock::system()).unwrap()
    }

    #[test]
    fn nobody_holds_more_than_the_card_has() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path());
        ledger.hold("main", MiB(20_000)).unwrap();
        let error = ledger.hold("main", MiB(24_577)).unwrap_err();
        assert!(matches!(error, HoldError::OutOfMemory { wanted: MiB(24_577), free: CARD }), "{error}");
        let state = ledger.read().unwrap();
        assert_eq!((state.used(), state.free(), state.most), (MiB(20_000), MiB(4_576), MiB(20_000)));
        assert_eq!((state.refused, state.starts, state.held_by("main")), (1, 1, Some(MiB(20_000))));
        ledger.hold("main", MiB(500)).unwrap();
        ledger.leave("main").unwrap();
        let state = ledger.read().unwrap();
        assert_eq!((state.used(), state.most, state.held_by("main")), (MiB::ZERO, MiB(20_000), None));
        let what: Vec<_> = ledger.events().unwrap().into_iter().map(|event| event.what).collect();
        assert_eq!(what, [What::Holds(MiB(20_000)), What::OutOfMemory, What::Holds(MiB(500)), What::Left]);
    }

    #[test]
    fn the_dead_hold_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path());
        ledger.hold("main", MiB(1_000)).unwrap();
        let (pid, started) = own().unwrap();
        // The same id at another time, and an id that no process has.
        let mut text = fs::read_to_string(folder.path().join("cards")).unwrap();
        text +=
            &format!("held {pid} 20971520000 {} main\nheld 4294967295 20971520000 1 judge\n", started + 1);
        fs::write(folder.path().join("cards"), text).unwrap();
        assert_eq!(ledger.read().unwrap().used(), MiB(1_000));
        ledger.hold("main", MiB(24_000)).unwrap();
    }

    #[test]
    fn a_ledger_is_kept_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        ledger(folder.path()).hold("main", MiB(7)).unwrap();
        assert_eq!(ledger(folder.path()).read().unwrap().used(), MiB(7));
        assert!(ledger(folder.path()).hold("two words", MiB(1)).is_err());
        fs::write(folder.path().join("cards"), "total unknown\n").unwrap();
        assert!(ledger(folder.path()).read().is_err());
        assert!(CardLedger::open(&folder.path().join("other"), "", CARD, Clock::system()).is_err());
    }

    #[test]
    fn many_at_once_lose_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let ledger = &ledger;
                scope.spawn(move || {
                    (0..50).for_each(|at| ledger.hold("main", MiB(thread * 50 + at)).unwrap())
                });
            }
        });
        assert_eq!(ledger.events().unwrap().len(), 200);
        assert_eq!(ledger.read().unwrap().holders.len(), 1);
    }
}
