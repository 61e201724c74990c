//! What the workers claim, what is found, and whether the two agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use quickstart::ledger::Snapshot;

use crate::message::Message;

/// What one worker claims to have done.
#[derive(Debug)]
pub(crate) struct Tally {
    /// For people.
    pub(crate) label: String,
    /// By this name its entries are found.
    name: String,
    writes: bool,
    /// The writes that were acknowledged to it.
    pub(crate) written: BTreeSet<i64>,
    waits: Vec<Duration>,
    retries: u64,
    pub(crate) whole: u64,
    pub(crate) torn: u64,
    torn_example: Option<String>,
    errors: u64,
    pub(crate) first_error: Option<String>,
    lock_requests: Option<u64>,
    done: bool,
}

impl Tally {
    pub(crate) fn new(label: String, name: String, writes: bool) -> Self {
        Self {
            label,
            name,
            writes,
            written: BTreeSet::new(),
            waits: Vec::new(),
            retries: 0,
            whole: 0,
            torn: 0,
            torn_example: None,
            errors: 0,
            first_error: None,
            lock_requests: None,
            done: false,
        }
    }

    pub(crate) fn take(&mut self, message: Message) {
        match message {
            Message::Written {
                sequence,
                wait_micros,
                retries,
            } => {
                self.written.insert(sequence);
                self.waits.push(Duration::from_micros(wait_micros));
                self.retries += u64::from(retries);
            }
            Message::Read {
                whole,
                torn,
                retries,
                example,
            } => {
                self.whole += whole;
                self.torn += torn;
                self.retries += retries;
                self.torn_example = self.torn_example.take().or(example);
            }
            Message::Failed { error } => self.fail(error),
            Message::Done { lock_requests } => {
                self.lock_requests = lock_requests;
                self.done = true;
            }
            Message::Ready | Message::Found { .. } | Message::Audited { .. } => {
                self.fail(format!("an unexpected message: {message:?}"));
            }
        }
    }

    /// Takes down something that should not have happened.
    pub(crate) fn fail(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    /// Whether the worker said all that it had to say, be it that it failed.
    pub(crate) fn finished(&self) -> bool {
        self.done || self.first_error.is_some()
    }
}

/// What is in the database at the end.
#[derive(Debug)]
pub(crate) struct Audit {
    /// By writer.
    pub(crate) found: BTreeMap<String, BTreeSet<i64>>,
    pub(crate) snapshot: Result<Snapshot, String>,
    pub(crate) duplicates: Result<i64, String>,
    pub(crate) integrity: Result<Vec<String>, String>,
    pub(crate) errors: Vec<String>,
}

impl Default for Audit {
    fn default() -> Self {
        let missing = || "the database could not be opened".to_owned();
        Self {
            found: BTreeMap::new(),
            snapshot: Err(missing()),
            duplicates: Err(missing()),
            integrity: Err(missing()),
            errors: Vec::new(),
        }
    }
}

/// All that is known after a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// Whether the guarantees were meant to hold.
    pub(crate) guarded: bool,
    pub(crate) elapsed: Duration,
    pub(crate) tallies: Vec<Tally>,
    pub(crate) audit: Audit,
}

impl Report {
    /// Prints the report; tells whether every guarantee held.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub(crate) fn print(&self) -> io::Result<bool> {
        let (text, held) = self.to_text();
        io::stdout().write_all(text.as_bytes())?;
        Ok(held)
    }

    fn to_text(&self) -> (String, bool) {
        let mut lines = Lines::default();
        lines.gap();
        self.add_writes(&mut lines);
        self.add_state(&mut lines);
        self.add_reads(&mut lines);
        self.add_errors(&mut lines);
        lines.gap();
        self.add_costs(&mut lines);
        lines.gap();
        self.add_processes(&mut lines);
        lines.gap();
        let verdict = match (self.guarded, lines.broken.is_empty()) {
            (true, true) => "Every guarantee held.".to_owned(),
            (true, false) => format!("BROKEN: {}.", lines.broken.join(", ")),
            (false, true) => {
                "Nothing broke this time; try more writers, or more seconds.".to_owned()
            }
            (false, false) => format!("Without locks, broken: {}.", lines.broken.join(", ")),
        };
        lines.text.push_str(&verdict);
        lines.text.push('\n');
        (lines.text, lines.broken.is_empty())
    }

    fn writers(&self) -> impl Iterator<Item = &Tally> {
        self.tallies.iter().filter(|tally| tally.writes)
    }

    fn readers(&self) -> impl Iterator<Item = &Tally> {
        self.tallies.iter().filter(|tally| !tally.writes)
    }

    fn acknowledged(&self) -> usize {
        self.writers().map(|tally| tally.written.len()).sum()
    }

    fn add_writes(&self, lines: &mut Lines) {
        let none = BTreeSet::new();
        let (mut found, mut lost, mut unacknowledged) = (0, 0, 0);
        for tally in self.writers() {
            let there = self.audit.found.get(&tally.name).unwrap_or(&none);
            found += there.intersection(&tally.written).count();
            lost += tally.written.difference(there).count();
            unacknowledged += there.difference(&tally.written).count();
        }
        let acknowledged = self.acknowledged();
        let rate = count_as_f64(acknowledged) / self.elapsed.as_secs_f64();
        lines.fact(
            "writes acknowledged",
            acknowledged,
            format!("{rate:.0} a second"),
        );
        lines.fact("writes found", found, "");
        lines.check("lost writes", lost, lost == 0, "acknowledged and not found");
        if unacknowledged > 0 {
            let note = "found although they were refused";
            lines.check("unacknowledged writes", unacknowledged, false, note);
        }
        if acknowledged == 0 {
            lines.check("nothing was written", "", false, "so nothing was shown");
        }
    }

    fn add_state(&self, lines: &mut Lines) {
        match (&self.audit.snapshot, &self.audit.duplicates) {
            (Ok(snapshot), Ok(duplicates)) => {
                let acknowledged = i64::try_from(self.acknowledged()).unwrap_or(i64::MAX);
                let expected = snapshot.entries.max(acknowledged);
                let lost = (expected - snapshot.counter).max(*duplicates);
                let held = lost == 0 && snapshot.counter == snapshot.entries;
                let note = format!("the counter says {} of {expected}", snapshot.counter);
                lines.check("lost updates", lost, held, note);
                let held = snapshot.balance == Snapshot::BALANCE;
                let note = format!("of all accounts; {} put in", Snapshot::BALANCE);
                lines.check("balance", snapshot.balance, held, note);
            }
            (Err(error), _) | (_, Err(error)) => lines.check("lost updates", "?", false, error),
        }
        match self.audit.integrity.as_deref() {
            Ok([line]) if line == "ok" => lines.check("integrity_check", "ok", true, ""),
            Ok(problems) => {
                let first = problems.first().map_or("no answer", String::as_str);
                // SQLite begins its list with a line that only names the database.
                let note = problems.get(1).map_or(first, String::as_str);
                let note = note.lines().next().unwrap_or_default();
                lines.check("integrity_check", problems.len(), false, note);
            }
            Err(error) => lines.check("integrity_check", "?", false, error),
        }
    }

    fn add_reads(&self, lines: &mut Lines) {
        if self.readers().next().is_none() {
            return;
        }
        let torn: u64 = self.readers().map(|tally| tally.torn).sum();
        let all: u64 = self.readers().map(|tally| tally.whole).sum::<u64>() + torn;
        let example = self.readers().find_map(|tally| tally.torn_example.as_ref());
        let note = match example {
            Some(example) => format!("of {all} reads; one: {example}"),
            None => format!("of {all} reads"),
        };
        lines.check("torn reads", torn, torn == 0 && all > 0, note);
    }

    fn add_errors(&self, lines: &mut Lines) {
        let failures = (self.tallies.iter()).map(|tally| tally.errors).sum::<u64>();
        let all = failures + u64::try_from(self.audit.errors.len()).unwrap_or(u64::MAX);
        let first = (self.tallies.iter())
            .find_map(|tally| Some((tally.label.as_str(), tally.first_error.as_ref()?)))
            .or_else(|| Some(("audit", self.audit.errors.first()?)));
        let note = first.map(|(who, error)| format!("{who}: {error}"));
        lines.check("errors", all, all == 0, note.unwrap_or_default());
    }

    fn add_costs(&self, lines: &mut Lines) {
        let waits = Waits::of(self.writers());
        let note = format!(
            "p50 {} · p99 {} · max {}",
            in_ms(waits.p50),
            in_ms(waits.p99),
            in_ms(waits.max)
        );
        lines.fact("wait for one's turn", "", note);
        let requests: Vec<u64> = (self.tallies.iter())
            .filter_map(|tally| tally.lock_requests)
            .collect();
        if !requests.is_empty() {
            let all: u64 = requests.iter().sum();
            let acknowledged = self.acknowledged();
            let each = all as f64 / count_as_f64(acknowledged.max(1));
            lines.fact("DynamoDB requests", all, format!("{each:.2} a write"));
        }
    }

    fn add_processes(&self, lines: &mut Lines) {
        let text = &mut lines.text;
        let acknowledged = count_as_f64(self.acknowledged().max(1));
        // Writing to a string does not fail; neither here nor below.
        let _ = writeln!(
            text,
            "  {:<10} {:>8} {:>7} {:>11} {:>11} {:>11} {:>8} {:>8}",
            "process", "writes", "share", "wait p50", "p99", "max", "retries", "errors"
        );
        for tally in self.writers() {
            let waits = Waits::of([tally]);
            let writes = tally.written.len();
            let _ = writeln!(
                text,
                "  {:<10} {:>8} {:>5.1} % {:>11} {:>11} {:>11} {:>8} {:>8}",
                tally.label,
                writes,
                100.0 * count_as_f64(writes) / acknowledged,
                in_ms(waits.p50),
                in_ms(waits.p99),
                in_ms(waits.max),
                tally.retries,
                tally.errors
            );
        }
        if self.readers().next().is_none() {
            return;
        }
        lines.gap();
        let text = &mut lines.text;
        let _ = writeln!(
            text,
            "  {:<10} {:>8} {:>7} {:>35} {:>8} {:>8}",
            "process", "reads", "torn", "", "retries", "errors"
        );
        for tally in self.readers() {
            let _ = writeln!(
                text,
                "  {:<10} {:>8} {:>7} {:>35} {:>8} {:>8}",
                tally.label,
                tally.whole + tally.torn,
                tally.torn,
                "",
                tally.retries,
                tally.errors
            );
        }
    }
}

/// The lines of the report, and which of the guarantees that they tell of are broken.
#[derive(Default)]
struct Lines {
    text: String,
    broken: Vec<&'static str>,
}

impl Lines {
    /// A line that tells something.
    fn fact(&mut self, label: &str, value: impl ToString, note: impl AsRef<str>) {
        self.line(label, value, "", note);
    }

    /// A line that tells of a guarantee.
    fn check(
        &mut self,
        label: &'static str,
        value: impl ToString,
        held: bool,
        note: impl AsRef<str>,
    ) {
        if !held {
            self.broken.push(label);
        }
        self.line(label, value, if held { "ok" } else { "BROKEN" }, note);
    }

    fn line(&mut self, label: &str, value: impl ToString, verdict: &str, note: impl AsRef<str>) {
        let line = format!(
            "  {label:<22} {:>8}  {verdict:<6}  {}",
            value.to_string(),
            note.as_ref()
        );
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }
}

/// How long writers waited for their turn.
struct Waits {
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Waits {
    fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
        let mut waits: Vec<Duration> = tallies
            .into_iter()
            .flat_map(|tally| tally.waits.iter().copied())
            .collect();
        waits.sort_unstable();
        // The nearest rank: the smallest that so many of a hundred do not exceed.
        let percentile = |percent: usize| {
            let rank = (waits.len() * percent).div_ceil(100);
            waits
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or_default()
        };
        Self {
            p50: percentile(50),
            p99: percentile(99),
            max: percentile(100),
        }
    }
}

fn in_ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// Exact up to 2^53, which no run reaches.
fn count_as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(written: &[i64], found: &[i64], counter: i64) -> Report {
        let mut writer = Tally::new("writer 1".to_owned(), "run writer 1".to_owned(), true);
        for &sequence in written {
            writer.take(Message::Written {
                sequence,
                wait_micros: 1000 * sequence.unsigned_abs(),
                retries: 0,
            });
        }
        let entries = i64::try_from(found.len()).expect("a small number");
        Report {
            guarded: true,
            elapsed: Duration::from_secs(1),
            tallies: vec![writer],
            audit: Audit {
                found: BTreeMap::from([(
                    "run writer 1".to_owned(),
                    found.iter().copied().collect(),
                )]),
                snapshot: Ok(Snapshot {
                    counter,
                    entries,
                    balance: Snapshot::BALANCE,
                }),
                duplicates: Ok(0),
                integrity: Ok(vec!["ok".to_owned()]),
                errors: Vec::new(),
            },
        }
    }

    fn broken(report: &Report) -> String {
        let (text, _) = report.to_text();
        text.lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn all_that_was_acknowledged_and_found_holds() {
        let (text, held) = report(&[1, 2, 3], &[1, 2, 3], 3).to_text();
        assert!(held, "{text}");
    }

    #[test]
    fn each_loss_is_named() {
        assert_eq!(
            broken(&report(&[1, 2, 3], &[1, 2], 3)),
            "BROKEN: lost writes, lost updates."
        );
        assert_eq!(
            broken(&report(&[1, 2, 3], &[1, 2, 3], 2)),
            "BROKEN: lost updates."
        );
        assert_eq!(
            broken(&report(&[1, 2], &[1, 2, 3], 3)),
            "BROKEN: unacknowledged writes."
        );
        assert_eq!(broken(&report(&[], &[], 0)), "BROKEN: nothing was written.");
    }

    #[test]
    fn a_failure_and_a_torn_read_are_named() {
        let mut report = report(&[1], &[1], 1);
        let mut reader = Tally::new("reader 1".to_owned(), "run reader 1".to_owned(), false);
        reader.take(Message::Read {
            whole: 5,
            torn: 1,
            retries: 0,
            example: Some("half".to_owned()),
        });
        reader.fail("no".to_owned());
        report.tallies.push(reader);
        assert_eq!(broken(&report), "BROKEN: torn reads, errors.");
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sequences: Vec<i64> = (1..=200).collect();
        let report = report(&sequences, &sequences, 200);
        let waits = Waits::of(report.writers());
        assert_eq!(waits.p50, Duration::from_millis(100));
        assert_eq!(waits.p99, Duration::from_millis(198));
        assert_eq!(waits.max, Duration::from_millis(200));
    }
}
