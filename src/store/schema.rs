//! Tables, and how older ones become today's.

use rusqlite::Connection;

use super::{StoreError, rollup};

/// Each entry brings the schema from its index to the next number; released entries never change.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE tasks (
    id            TEXT PRIMARY KEY,           -- our own id
    source        TEXT NOT NULL,
    hotkey        TEXT NOT NULL,
    task_id       TEXT NOT NULL,              -- the source's id
    prompt_kind   TEXT NOT NULL,
    prompt        TEXT NOT NULL,
    threshold     REAL NOT NULL,
    throttle_s    INTEGER NOT NULL,
    pulled_at     INTEGER NOT NULL,           -- ns, our clock
    stage         TEXT NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0, -- generations begun
    outcome       TEXT,
    reason        TEXT,
    settled_at    INTEGER                     -- ns, our clock
) STRICT;
-- A source never has two open tasks for one hotkey: it gives the open one again instead.
CREATE UNIQUE INDEX one_open_task ON tasks (source, hotkey) WHERE settled_at IS NULL;
CREATE INDEX tasks_by_settled ON tasks (settled_at);

CREATE TABLE results (
    id            INTEGER PRIMARY KEY,
    task          TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL,
    seed          INTEGER NOT NULL,
    worker        TEXT NOT NULL,
    file          TEXT NOT NULL UNIQUE,       -- below the results directory, from our own id
    bytes         INTEGER NOT NULL,
    sha256        BLOB NOT NULL,
    points        INTEGER NOT NULL,
    generation_ms INTEGER NOT NULL,
    kept_at       INTEGER NOT NULL,
    verdict       TEXT,
    score         REAL,
    UNIQUE (task, attempt)
) STRICT;

CREATE TABLE submissions (
    id            INTEGER PRIMARY KEY,
    task          TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    result        INTEGER REFERENCES results (id), -- NULL: an empty answer
    submit_time   INTEGER NOT NULL,           -- ns, our clock; signed
    error         TEXT                        -- why no answer came
) STRICT;
CREATE INDEX submissions_by_task ON submissions (task);

CREATE TABLE feedback (
    id            INTEGER PRIMARY KEY,
    task          TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    source        TEXT NOT NULL,
    hotkey        TEXT NOT NULL,
    uid           INTEGER,
    received_at   INTEGER NOT NULL,
    outcome       TEXT NOT NULL,
    validation_failed INTEGER NOT NULL,
    score         REAL NOT NULL,
    local_score   REAL,
    average_score REAL NOT NULL,
    window_count  INTEGER NOT NULL,
    duel_rating   REAL NOT NULL,
    reward        REAL NOT NULL,
    cooldown_until INTEGER                    -- ns, the source's clock
) STRICT;
CREATE INDEX feedback_by_lane ON feedback (source, hotkey, received_at);

CREATE TABLE lanes (
    source        TEXT NOT NULL,
    hotkey        TEXT NOT NULL,
    cooldown_until INTEGER,                   -- ns, the source's clock
    clock_offset  INTEGER,                    -- ns: least the source's clock is ahead of ours
    window_count  INTEGER,
    PRIMARY KEY (source, hotkey)
) STRICT, WITHOUT ROWID;

CREATE TABLE canaries (
    worker        TEXT PRIMARY KEY,
    prompt_kind   TEXT NOT NULL,
    prompt        TEXT NOT NULL,
    spz           BLOB NOT NULL,
    score         REAL NOT NULL
) STRICT;
",
    "
CREATE TABLE metagraphs (
    network       TEXT NOT NULL,
    netuid        INTEGER NOT NULL,
    snapshot      BLOB NOT NULL,              -- chain::Metagraph::to_bytes
    PRIMARY KEY (network, netuid)
) STRICT, WITHOUT ROWID;
",
    "
-- Unknown of what was made and sent before.
ALTER TABLE results ADD COLUMN queue_ms INTEGER;      -- waiting for the card, without the hand-off
ALTER TABLE results ADD COLUMN handoff_ms INTEGER;
ALTER TABLE results ADD COLUMN first_byte_ms INTEGER; -- part of generation_ms
ALTER TABLE results ADD COLUMN encode_ms INTEGER;
ALTER TABLE results ADD COLUMN scoring_ms INTEGER;
ALTER TABLE submissions ADD COLUMN sent_bytes INTEGER;
ALTER TABLE submissions ADD COLUMN upload_ms INTEGER;
ALTER TABLE submissions ADD COLUMN reply_ms INTEGER;  -- from the last byte sent to the first of the reply

CREATE TABLE decisions (
    id            INTEGER PRIMARY KEY,
    task          TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    at            INTEGER NOT NULL,           -- ns, our clock
    what          TEXT NOT NULL,
    why           TEXT NOT NULL,
    p             REAL,
    gate          REAL,
    lane_price    REAL,                       -- accepted results per second of the lane's time
    card_price    REAL                        -- the same of the card's
) STRICT;
CREATE INDEX decisions_by_task ON decisions (task);
CREATE INDEX decisions_by_time ON decisions (at);

CREATE INDEX feedback_by_task ON feedback (task);
CREATE INDEX feedback_by_time ON feedback (received_at, outcome, local_score);

-- Settled tasks added up per hour, day and 30 days, source and hotkey; store::tally says what is counted.
CREATE TABLE tallies (
    span          INTEGER NOT NULL,           -- s: length of the period
    start         INTEGER NOT NULL,           -- s since 1970, our clock; a multiple of the length
    source        TEXT NOT NULL,
    hotkey        TEXT NOT NULL,
    accepted      INTEGER NOT NULL,
    low           INTEGER NOT NULL,
    scorer_failed INTEGER NOT NULL,
    empty         INTEGER NOT NULL,
    settled       INTEGER NOT NULL,
    lost          INTEGER NOT NULL,
    generations   INTEGER NOT NULL,           -- results, and attempts that made none
    made          INTEGER NOT NULL,           -- tasks with a result
    slow_queue    INTEGER NOT NULL,           -- tasks that took over 30 s to make, by what took longest
    slow_handoff  INTEGER NOT NULL,
    slow_generator INTEGER NOT NULL,
    slow_retries  INTEGER NOT NULL,
    passed_here   INTEGER NOT NULL,           -- judged results whose local score reached the threshold
    rejected_there INTEGER NOT NULL,          -- of those
    compared      INTEGER NOT NULL,           -- accepted results with a local score
    score_sum     REAL NOT NULL,              -- of all accepted results
    local_sum     REAL NOT NULL,              -- of those compared
    remote_sum    REAL NOT NULL,
    difference_squares REAL NOT NULL,         -- (remote - local) squared
    last_at       INTEGER,                    -- ns, our clock; of the newest feedback
    last_uid      INTEGER,
    last_window_count INTEGER,
    last_duel_rating REAL,
    last_reward   REAL,
    histograms    BLOB NOT NULL,              -- accepted and rejected by local score, then each stage
    PRIMARY KEY (span, start, source, hotkey)
) STRICT, WITHOUT ROWID;
",
    "
-- Hand-offs of cards; those without an end were interrupted.
CREATE TABLE handoffs (
    id            INTEGER PRIMARY KEY,
    host          TEXT NOT NULL,
    card          TEXT NOT NULL,
    begun_at      INTEGER NOT NULL,           -- ns, our clock
    cause         TEXT NOT NULL,
    wanted        TEXT NOT NULL,              -- name of a worker
    evicted       TEXT NOT NULL,              -- names of workers, as a JSON list
    ended_at      INTEGER,                    -- ns, our clock
    failure       TEXT                        -- why the wanted one is not ready
) STRICT;
CREATE INDEX open_handoffs ON handoffs (id) WHERE ended_at IS NULL;
CREATE INDEX handoffs_by_end ON handoffs (ended_at);

CREATE TABLE handoff_steps (
    handoff       INTEGER NOT NULL REFERENCES handoffs (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    at            INTEGER NOT NULL,           -- ns, our clock, at its end
    verb          TEXT NOT NULL,
    worker        TEXT,
    took_ms       INTEGER NOT NULL,           -- with its proof
    failure       TEXT,
    PRIMARY KEY (handoff, number)
) STRICT, WITHOUT ROWID;
",
    "
-- Attempts that made nothing; those that did are results.
CREATE TABLE failures (
    task          TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL,
    queue_ms      INTEGER NOT NULL,
    handoff_ms    INTEGER NOT NULL,
    generation_ms INTEGER NOT NULL,
    failed_at     INTEGER NOT NULL,           -- ns, our clock
    PRIMARY KEY (task, attempt)
) STRICT, WITHOUT ROWID;
",
];

/// Number of the schema from which on there are tallies.
pub(super) const TALLIES: i64 = 3;

/// Number of the schema that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the tables up to date, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = VERSION;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let transaction = connection.transaction()?;
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    if found < TALLIES {
        if found > 0 {
            tracing::info!("Counting what an older version remembers, which can take a minute");
        }
        // After all steps: what counts today's way needs today's tables.
        rollup::recount(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 999).unwrap();
        assert!(matches!(migrate(&mut connection), Err(StoreError::Newer { found: 999, .. })));
    }
}
