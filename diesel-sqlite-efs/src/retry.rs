//! Transactions that are run again after failures of the lock.

use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{Connection, TransactionManager};
use diesel::result::Error;

use crate::connection::EfsSqliteConnection;
use crate::error::LockError;
use crate::lease::backoff::Backoff;
use crate::transaction::EfsTransactionManager;

/// Runs the transaction until it succeeds, fails for a reason of its own, or the time is up.
pub(crate) fn run<T, E, F>(conn: &mut EfsSqliteConnection, mut f: F) -> Result<T, E>
where
    F: FnMut(&mut EfsSqliteConnection) -> Result<T, E>,
    E: From<Error>,
{
    EfsTransactionManager::refuse_nesting(conn)?;
    let mut repeats = Repeats::new(conn);
    let mut result = EfsTransactionManager::transaction(conn, &mut f);
    while result.is_err() && is_worth_repeating(conn) {
        if !repeats.pause(conn) {
            break;
        }
        result = if repeats.writes {
            // Asking only after it has read, it could be overtaken again.
            let until = repeats.until;
            EfsTransactionManager::locked_transaction(conn, "BEGIN IMMEDIATE", until, &mut f)
        } else {
            EfsTransactionManager::transaction(conn, &mut f)
        };
    }
    result
}

/// Whether the lock was the cause of the failure, and a run from the start may fare better.
fn is_worth_repeating(conn: &mut EfsSqliteConnection) -> bool {
    let session = conn.session();
    let is_cause = session.retry_cause().is_some();
    let is_promise_broken = session.gate().is_some_and(|gate| gate.has_lost_its_pin());
    is_cause && !is_promise_broken && !conn.transaction_state().is_in_error()
}

/// The runs of one transaction so far.
#[derive(Debug)]
struct Repeats {
    runs_done: u32,
    /// What the connection had waited for leases, ever, when the first run began.
    waited_before: Duration,
    first_failure: Option<Instant>,
    /// No run begins after this.
    until: Option<Instant>,
    backoff: Option<Backoff>,
    /// A run has asked to write.
    writes: bool,
}

impl Repeats {
    /// Before the first run.
    fn new(conn: &mut EfsSqliteConnection) -> Self {
        let waited_before = conn.lock_stats().waited;
        if let Some(gate) = conn.session().gate() {
            // What earlier statements have asked for is no concern of this transaction.
            gate.take_asked_to_write();
        }
        Self {
            runs_done: 0,
            waited_before,
            first_failure: None,
            until: None,
            backoff: None,
            writes: false,
        }
    }

    /// After a failed run: pauses and counts the next one, if there is time for it.
    fn pause(&mut self, conn: &mut EfsSqliteConnection) -> bool {
        let session = conn.session();
        let Some(gate) = session.gate() else {
            return false;
        };
        let (client, key) = (gate.client(), &gate.lock_name().key);
        let cause = session.retry_cause();
        let told = cause.map(ToString::to_string).unwrap_or_default();
        let now = Instant::now();
        self.runs_done += 1;
        self.writes |= gate.take_asked_to_write();
        let first_failure = *self.first_failure.get_or_insert(now);
        let until = *(self.until).get_or_insert_with(|| {
            // For leases, or for SQLite's file locks.
            let for_files = cause.map(LockError::waited).unwrap_or_default();
            let for_leases = client.stats().waited.saturating_sub(self.waited_before);
            now + gate.timeout().saturating_sub(for_leases.max(for_files))
        });
        let round_trip = client.fastest_answer();
        let backoff = self.backoff.get_or_insert_with(|| Backoff::new(round_trip));
        let pause = backoff.next_pause(None, &mut fastrand::Rng::new());
        let start = now + pause;
        if start >= until || !gate.is_in_time(start, self.writes) {
            let spent = first_failure.elapsed();
            client
                .events(key)
                .transaction_gave_up(self.runs_done, spent, &told);
            return false;
        }
        thread::sleep(pause);
        client.count_retry();
        let attempt = self.runs_done + 1;
        client
            .events(key)
            .transaction_retried(attempt, pause, &told);
        true
    }
}
