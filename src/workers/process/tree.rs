//! Processes and what belongs to them, by `/proc`.
//!
//! A worker is more than one process: launchers, actors and engines of their own (workers.md 1.2). What
//! belongs to it is what descends from its root, what is in its group, and what has its mark in the
//! environment, which also finds those that have left both. A number alone may be somebody else's by
//! now: with the time of its start it is not.
//!
//! Limits: one that leaves the tree *and* clears its environment is lost sight of; the sockets of
//! another user's processes cannot be told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Variable that marks a worker and all that it starts.
pub(super) const MARK: &str = "SN17_WORKER";

/// No chain of parents is longer.
const DEEPEST: usize = 64;

/// How long a killed tree may take to go.
const GOING: Duration = Duration::from_secs(5);

/// One process, and no later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessStamp {
    pub pid: u32,
    /// Ticks from the boot of the machine to its start.
    pub started: u64,
}

/// A worker's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    /// Where it begins.
    pub roots: Vec<ProcessStamp>,
    /// Its own process group; `None`: somebody else started it, in a group of who knows whom.
    pub group: Option<u32>,
    /// In the environment of all of them.
    pub mark: Option<String>,
}

/// One line of `/proc`.
#[derive(Debug, Clone, Copy)]
struct Stat {
    stamp: ProcessStamp,
    parent: u32,
    group: u32,
    /// Ended, and only waits to be noticed.
    is_over: bool,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&text))
    }

    /// The name in brackets may hold anything, brackets and blanks included.
    fn parse(pid: u32, text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            stamp: ProcessStamp { pid, started: number(19)? },
            parent: u32::try_from(number(1)?).ok()?,
            group: u32::try_from(number(2)?).ok()?,
            is_over: matches!(*fields.first()?, "Z" | "X" | "x"),
        })
    }
}

impl ProcessStamp {
    /// Of a process that is there.
    pub fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| stat.stamp)
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.stamp == self && !stat.is_over)
    }

    /// Nothing happens if it has gone, and nothing to another one of its number.
    fn signal(self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The handle is of whoever has the number now, and stays with that one.
        if self.is_alive() {
            // It may have gone this very moment.
            pidfd_send_signal(handle, signal).ok();
        }
    }
}

fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    entries.flatten().filter_map(pid).filter_map(Stat::of).collect()
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

impl ProcessTree {
    /// Whether a process belongs to it. Asks `/proc` for that one and its parents only.
    pub fn holds(&self, pid: u32) -> bool {
        let Some(own) = Stat::of(pid) else { return false };
        if self.group.is_some_and(|group| group == own.group) {
            return true;
        }
        let mut at = own;
        for _ in 0..DEEPEST {
            if self.roots.contains(&at.stamp) {
                return true;
            }
            match Stat::of(at.parent) {
                Some(parent) if parent.stamp.pid > 1 => at = parent,
                _ => break,
            }
        }
        self.mark.as_ref().is_some_and(|mark| is_marked(pid, mark))
    }

    /// All of it that runs.
    pub fn members(&self) -> BTreeSet<ProcessStamp> {
        let all = all();
        let mut children: BTreeMap<u32, Vec<&Stat>> = BTreeMap::new();
        for stat in &all {
            children.entry(stat.parent).or_default().push(stat);
        }
        let belongs = |stat: &&Stat| {
            self.roots.contains(&stat.stamp)
                || self.group.is_some_and(|group| group == stat.group)
                || self.mark.as_ref().is_some_and(|mark| is_marked(stat.stamp.pid, mark))
        };
        let mut found = BTreeSet::new();
        let mut open: Vec<&Stat> = all.iter().filter(belongs).collect();
        while let Some(stat) = open.pop() {
            if found.insert(stat.stamp) {
                open.extend(children.get(&stat.stamp.pid).into_iter().flatten());
            }
        }
        let over: BTreeSet<_> = all.iter().filter(|stat| stat.is_over).map(|stat| stat.stamp).collect();
        &found - &over
    }

    /// Asks all of it to end that was not asked before, and says who is there. One that was started just
    /// then is found by the next call.
    pub(super) fn terminate(&self, asked: &BTreeSet<ProcessStamp>) -> BTreeSet<ProcessStamp> {
        let members = self.members();
        // One by one: the group's number is somebody else's once all in it have gone.
        members.difference(asked).for_each(|process| process.signal(Signal::TERM));
        members
    }

    /// Ends all of it, those included that are started meanwhile. Says who is left after all.
    pub(super) async fn kill(&self, clock: &Clock) -> Result<(), BTreeSet<ProcessStamp>> {
        let began = clock.instant();
        loop {
            let tree = self.clone();
            let left = tokio::task::spawn_blocking(move || {
                let members = tree.members();
                members.iter().for_each(|process| process.signal(Signal::KILL));
                members
            });
            // Only a panic there, or the end of the runtime, gives nothing.
            let left = left.await.unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= GOING {
                return Err(left);
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Who listens at a port of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    Nobody,
    /// Somebody whose processes we may not look into.
    Hidden,
    Tree(ProcessTree),
}

/// Finds the processes of a server by the port that it listens at. Blocking.
pub fn listener(port: u16) -> Listener {
    let sockets: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .flat_map(|table| sockets_at(&fs::read_to_string(table).unwrap_or_default(), port))
        .collect();
    if sockets.is_empty() {
        return Listener::Nobody;
    }
    let holds = |stat: &Stat| {
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", stat.stamp.pid)) else { return false };
        files.flatten().any(|file| {
            let target = fs::read_link(file.path());
            target.ok().as_deref().and_then(Path::to_str).is_some_and(|target| sockets.contains(target))
        })
    };
    let roots: Vec<ProcessStamp> = all().iter().filter(|stat| holds(stat)).map(|stat| stat.stamp).collect();
    if roots.is_empty() {
        return Listener::Hidden;
    }
    Listener::Tree(ProcessTree { roots, group: None, mark: None })
}

/// Names of the sockets in a table of the kernel's that listen at a port, as `/proc/PID/fd` shows them.
fn sockets_at(table: &str, port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let at = fields.get(1)?.rsplit_once(':')?.1;
        let here = u16::from_str_radix(at, 16).ok()? == port && *fields.get(3)? == LISTENS;
        here.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Of this boot of the machine: start times are counted from it.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "17 (a) b (x) 9) S 4 17 17 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 2 3";
        let stat = Stat::parse(17, line).unwrap();
        assert_eq!((stat.parent, stat.group, stat.stamp.started, stat.is_over), (4, 17, 123_456, false));
        assert!(Stat::parse(17, "17 (x) Z 4 17 17 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 9").unwrap().is_over);
        for line in ["", "17 (x", "17 (x) S", "17 (x) S a b c"] {
            assert!(Stat::parse(17, line).is_none(), "{line}");
        }
    }

    #[test]
    fn the_processes_of_a_server_are_found_by_its_port() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let own = std::process::id();
        let Listener::Tree(tree) = listener(port) else { panic!("{:?}", listener(port)) };
        assert!(tree.roots.iter().any(|root| root.pid == own) && tree.holds(own));
        assert!(!tree.holds(1));
        drop(server);
        assert_eq!(listener(port), Listener::Nobody);
    }

    #[test]
    fn tables_of_sockets_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12345 1 0000\n\
            1: 0100007F:1F9E 0100007F:D431 01 00000000:00000000 00:00000000 00000000  0 0 12346 1 0000\n\
            2: 0100007F:1F9F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12347 1 0000\n nonsense\n";
        assert_eq!(sockets_at(table, 8_094), ["socket:[12345]"]);
        assert!(sockets_at(table, 1).is_empty() && sockets_at("", 1).is_empty());
    }

    #[test]
    fn a_number_alone_is_nobody() {
        let own = ProcessStamp::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessStamp { started: own.started + 1, ..own }.is_alive());
    }
}
