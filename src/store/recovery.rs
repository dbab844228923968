//! Opening a database that may be broken.
//!
//! A file that SQLite cannot read, whose structure is broken or whose tables are not ours is moved
//! aside under a name of its own, never deleted, and a fresh one is begun. What the old one still
//! says of the lanes is taken over, so that no cooldown is forgotten with it; tasks come back from
//! their validators. A locked file and one of a newer program are left where they are.
//!
//! Not found here: a value that was changed inside an intact page, and whatever the check of the
//! structure does not reach within [`CHECK_LIMIT`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{StoreError, schema};
use crate::clock::Clock;
use crate::primitives::{Hotkey, SourceId, Untrusted};

/// Longest look at the structure of the file: 325 MiB with a million replies take 0.8 s when they are in
/// memory.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// Opens the database, in place of one that cannot be used a new one; then with where that is now.
pub(super) fn open(path: &Path) -> Result<(Connection, Option<PathBuf>), StoreError> {
    let cause = match open_sound(path) {
        Err(cause) if cause.is_corrupt() => cause,
        opened => return Ok((opened?, None)),
    };
    let aside = set_aside(path)?;
    let mut connection = open_sound(path)?;
    let lanes = take_over_lanes(&aside, &mut connection)?;
    let cause = match cause {
        StoreError::Malformed(error) => error.to_string(),
        error => error.to_string(),
    };
    tracing::error!(
        alarm = "store-corrupt", file = %aside.display(), cause = %Untrusted::error(&cause), lanes,
        "The agent's memory could not be used: it is moved aside and a new one begun"
    );
    Ok((connection, Some(aside)))
}

/// Opens the database if it is ours and sound, or makes it if there is none.
fn open_sound(path: &Path) -> Result<Connection, StoreError> {
    // SQLite says of a directory only that it cannot be opened.
    if path.exists() && !path.is_file() {
        let what = std::io::Error::other("not a file, so no database can be there");
        return Err(StoreError::file(path, what));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // If it turns out to be broken, its log is evidence and no more to be written into it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if found > schema::VERSION {
        return Err(StoreError::Newer { found, known: schema::VERSION });
    }
    if found < 0 || found == 0 && tables > 0 {
        return Err(StoreError::corrupt("schema", "its tables are another program's"));
    }
    check_structure(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    schema::migrate(&mut connection).map_err(|error| match error {
        // A step that fails on tables it does not find, or finds already.
        StoreError::Database(rusqlite::Error::SqliteFailure(e, Some(said)))
            if e.code == ErrorCode::Unknown =>
        {
            StoreError::corrupt("schema", said)
        }
        error => error,
    })?;
    check_columns(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// SQLite's own look at its structure, given up after [`CHECK_LIMIT`].
fn check_structure(connection: &Connection) -> Result<(), StoreError> {
    let interrupt = connection.get_interrupt_handle();
    let (done, finished) = channel::<()>();
    let found = std::thread::scope(|scope| {
        scope.spawn(move || {
            if finished.recv_timeout(CHECK_LIMIT) == Err(RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        drop(done);
        found
    });
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(StoreError::corrupt("structure", found)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            tracing::debug!("The database is too large to be checked whole");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Every table and column that this program uses is there.
fn check_columns(connection: &Connection) -> Result<(), StoreError> {
    let mut model = Connection::open_in_memory()?;
    schema::migrate(&mut model)?;
    let there = columns(connection)?;
    match columns(&model)?.into_iter().find(|wanted| !there.contains(wanted)) {
        None => Ok(()),
        Some((table, column)) => Err(StoreError::corrupt("schema", format!("no {table}.{column}"))),
    }
}

fn columns(connection: &Connection) -> Result<BTreeSet<(String, String)>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Moves the database with its log to `NAME.corrupt-SECONDS`, so named that SQLite finds the log.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    const PARTS: [&str; 3] = ["", "-wal", "-shm"];
    let mut seconds = Clock::system().now().as_secs();
    let aside = loop {
        let aside = beside(path, &format!(".corrupt-{seconds}"));
        if PARTS.iter().all(|part| !beside(&aside, part).exists()) {
            break aside;
        }
        seconds += 1;
    };
    // The database first: a log without one is dropped by SQLite, a database without its log would
    // pass for the state of some time ago.
    for part in PARTS {
        let (from, to) = (beside(path, part), beside(&aside, part));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::file(&from, error)),
        }
    }
    Ok(aside)
}

/// Copies what can still be read of the lanes; returns how many.
fn take_over_lanes(aside: &Path, into: &mut Connection) -> Result<usize, StoreError> {
    let lanes = read_lanes(aside).unwrap_or_default();
    let transaction = into.transaction()?;
    for (source, hotkey, cooldown_until, clock_offset, window_count) in &lanes {
        transaction.execute(
            "INSERT OR IGNORE INTO lanes (source, hotkey, cooldown_until, clock_offset, window_count)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            (source, hotkey, cooldown_until, clock_offset, window_count),
        )?;
    }
    transaction.commit()?;
    Ok(lanes.len())
}

type Lane = (String, String, Option<i64>, Option<i64>, Option<i64>);

fn read_lanes(path: &Path) -> Result<Vec<Lane>, rusqlite::Error> {
    /// Far more than there are validators and hotkeys.
    const MOST: u32 = 100_000;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let mut statement = connection
        .prepare("SELECT source, hotkey, cooldown_until, clock_offset, window_count FROM lanes LIMIT ?1")?;
    let rows = statement
        .query_map([MOST], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    // Up to the first row that cannot be read.
    let ours =
        |(source, hotkey, ..): &Lane| source.parse::<SourceId>().is_ok() && hotkey.parse::<Hotkey>().is_ok();
    Ok(rows.map_while(Result::ok).filter(ours).collect())
}
