//! The lock table: its endpoint, clock, permissions, schema and TTL, and who holds the lock.

use std::path::Path;
use std::time::{Duration, SystemTime};

use diesel_sqlite_efs::admin::{LockTable, Probe, ProbeMethod, TimeToLive};
use diesel_sqlite_efs::{LockName, StoreError};

use super::journal::{self, Writer};
use crate::create_table::wrong_key;
use crate::holder::{self, Lock};
use crate::output::Finding;
use crate::target::Target;

/// How often the item is requested, to measure the latency and the clock.
const PROBES: usize = 5;

pub(super) fn examine(
    target: &Target,
    lock: &LockName,
    file: Option<&Path>,
    findings: &mut Vec<Finding>,
) {
    let table = LockTable::new(&lock.table);
    let probes = match probe_often(&table, &lock.key) {
        Ok(probes) => probes,
        Err(error) => {
            findings.push(unanswered(&error));
            findings.extend(journal::examine(file, Writer::Unknown));
            return;
        }
    };
    findings.push(endpoint(&table, &probes));
    findings.push(clock(target, &probes));
    findings.push(permissions(&table, &lock.key));
    findings.push(schema(&table));
    findings.push(time_to_live(&table));
    holder_and_journal(&table, &lock.key, file, findings);
}

/// The first request sets the client up.
fn probe_often(table: &LockTable, key: &str) -> Result<Vec<Probe>, StoreError> {
    (0..=PROBES).map(|_| table.probe(key)).collect()
}

/// The finding if not even one answer came.
fn unanswered(error: &StoreError) -> Finding {
    let name = match error {
        StoreError::AccessDenied { .. } => "permissions",
        StoreError::Credentials { .. } => "credentials",
        StoreError::TableMissing { .. } | StoreError::TableSchema { .. } => "lock table",
        _ => "endpoint",
    };
    let mut finding = Finding::problem(name, &error.problem());
    if matches!(error, StoreError::TableMissing { .. }) {
        finding.remedy = Some(
            "create it with `efs-sqlite create-table`, or check its name and AWS_REGION".to_owned(),
        );
    }
    finding
}

fn endpoint(table: &LockTable, probes: &[Probe]) -> Finding {
    const NAME: &str = "endpoint";
    /// Several times DynamoDB's latency within a Region.
    const SLOW: Duration = Duration::from_millis(50);
    let mut times: Vec<_> = probes.iter().skip(1).map(|probe| probe.took).collect();
    times.sort();
    let median = times[times.len() / 2];
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let text = format!(
        "{} (region {}) answers in {} (median of {}; {} to {}; the first took {})",
        probes[0].endpoint.as_deref().unwrap_or("DynamoDB"),
        table.region().unwrap_or_default(),
        milliseconds(median),
        times.len(),
        milliseconds(times[0]),
        milliseconds(times[times.len() - 1]),
        milliseconds(probes[0].took),
    );
    if median > SLOW {
        let remedy = "each write makes three such requests: use a table in this Region, and in a \
                      VPC a gateway endpoint";
        return Finding::warning(NAME, text, remedy);
    }
    Finding::ok(NAME, text)
}

/// When a request was sent and its answer received by this host's clock, and the answer's date.
#[derive(Debug, Clone, Copy)]
struct Exchange {
    sent: SystemTime,
    received: SystemTime,
    date: SystemTime,
}

/// How far this host's clock is at least and at most ahead of the service's, in seconds: an
/// answer's date has a resolution of one second.
fn ahead(exchanges: impl IntoIterator<Item = Exchange>) -> Option<(f64, f64)> {
    let bounds = exchanges.into_iter().map(|exchange| {
        let date = holder::seconds(exchange.date);
        let (sent, received) = (
            holder::seconds(exchange.sent),
            holder::seconds(exchange.received),
        );
        (sent - (date + 1.0), received - date)
    });
    bounds.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)))
}

fn clock(target: &Target, probes: &[Probe]) -> Finding {
    const NAME: &str = "clock";
    /// A holder stops this long before the end of its lease, so clocks may differ by as much.
    const TOLERABLE: f64 = 2.0;
    const REMEDY: &str = "set this host's clock by NTP (chrony): the lock uses DynamoDB's, but the Python package uses its host's, and AWS refuses requests that are 5 minutes off";
    let exchanges = probes.iter().filter_map(|probe| {
        Some(Exchange {
            sent: probe.sent,
            received: probe.received,
            date: probe.date?,
        })
    });
    let Some((least, most)) = ahead(exchanges) else {
        return Finding::warning(
            NAME,
            "not known: the answers have no date",
            "without it, expired leases are judged by this host's clock: keep it right by NTP",
        );
    };
    let tolerable = TOLERABLE.min(target.settings.lock_expiration.as_secs_f64() / 4.0);
    if least > tolerable {
        Finding::warning(
            NAME,
            format!("{least:.1} s ahead of DynamoDB's or more"),
            REMEDY,
        )
    } else if most < -tolerable {
        Finding::warning(
            NAME,
            format!("{:.1} s behind DynamoDB's or more", -most),
            REMEDY,
        )
    } else {
        Finding::ok(
            NAME,
            format!("agrees with DynamoDB's ({least:+.1} to {most:+.1} s ahead)"),
        )
    }
}

fn permissions(table: &LockTable, key: &str) -> Finding {
    const NAME: &str = "permissions";
    let mut denied = Vec::new();
    for (method, action) in [
        (ProbeMethod::Put, "PutItem"),
        (ProbeMethod::Delete, "DeleteItem"),
    ] {
        match table.probe_by(method, key) {
            Ok(_) => {}
            Err(StoreError::AccessDenied { .. }) => denied.push(format!("dynamodb:{action}")),
            Err(error) => return Finding::problem(NAME, &error.problem()),
        }
    }
    if denied.is_empty() {
        let text = "dynamodb:PutItem and dynamodb:DeleteItem are allowed (tried with conditions that change nothing)";
        return Finding::ok(NAME, text);
    }
    let denied = denied.join(" and ");
    Finding::failure(
        NAME,
        format!("{denied} denied"),
        format!("allow {denied} on the lock table"),
    )
}

fn schema(table: &LockTable) -> Finding {
    const NAME: &str = "lock table";
    let summary = match table.describe() {
        Ok(summary) => summary,
        Err(error) => return not_known(NAME, &error, "dynamodb:DescribeTable"),
    };
    let billing = match summary.is_on_demand {
        true => "on-demand",
        false => "provisioned capacity",
    };
    let text = format!("{}, {billing}", summary.status.to_lowercase());
    if let Some(problem) = wrong_key(&summary) {
        return Finding::failure(NAME, problem, "give the lock a table of its own");
    }
    if summary.has_lagging_replicas {
        return Finding::failure(
            NAME,
            format!("{text}, with replicas in other Regions, each of which would grant the lock"),
            "use a table without replicas, or let all writers use one Region",
        );
    }
    if summary.is_on_demand {
        Finding::ok(NAME, format!("key pk (S), {text}"))
    } else {
        let remedy = "use on-demand capacity, which does not throttle short bursts";
        Finding::warning(NAME, format!("key pk (S), {text}"), remedy)
    }
}

fn time_to_live(table: &LockTable) -> Finding {
    const NAME: &str = "TTL";
    match table.time_to_live() {
        Ok(TimeToLive::On(attribute)) if attribute == "expires_at" => {
            Finding::ok(NAME, "on expires_at")
        }
        Ok(TimeToLive::On(attribute)) if attribute == "acquired_at" => Finding::failure(
            NAME,
            "on acquired_at, so that leases are deleted while they are held",
            "switch it off; wait an hour; run `efs-sqlite create-table`",
        ),
        Ok(TimeToLive::On(attribute)) => Finding::warning(
            NAME,
            format!("on `{attribute}`, which lock items do not have"),
            "switch it off; wait an hour; run `efs-sqlite create-table`",
        ),
        Ok(TimeToLive::Off | TimeToLive::Disabling) => Finding::warning(
            NAME,
            "off: items of crashed writers stay until the next write",
            "nothing, if that is intended; else run `efs-sqlite create-table`",
        ),
        Err(error) => not_known(NAME, &error, "dynamodb:DescribeTimeToLive"),
    }
}

fn not_known(name: &'static str, error: &StoreError, action: &str) -> Finding {
    match error {
        StoreError::AccessDenied { .. } => Finding::warning(
            name,
            format!("not known: {action} is denied"),
            format!("nothing, the lock does not need it; to have it examined, allow {action}"),
        ),
        error => Finding::problem(name, &error.problem()),
    }
}

fn holder_and_journal(
    table: &LockTable,
    key: &str,
    file: Option<&Path>,
    findings: &mut Vec<Finding>,
) {
    const NAME: &str = "lock";
    // The journal is examined after the item: a commit that begins in between shows as a journal
    // without a holder. Then both are examined again.
    let mut probe = table.probe(key);
    let lock = probe.as_ref().map(Lock::of);
    let journal = journal::examine(file, lock.as_ref().map_or(Writer::Unknown, Writer::of));
    let is_unclaimed = !matches!(lock, Ok(Lock::Held(_)))
        && journal.as_ref().is_some_and(|found| found.remedy.is_some());
    if is_unclaimed {
        probe = table.probe(key);
    }
    let (lock, now) = match &probe {
        Ok(probe) => (Lock::of(probe), holder::now(probe)),
        Err(error) => {
            findings.push(Finding::problem(NAME, &error.problem()));
            findings.extend(journal);
            return;
        }
    };
    let summary = lock.summary(now);
    findings.push(match &lock {
        Lock::Free | Lock::Held(_) => Finding::ok(NAME, summary),
        Lock::Expired(_) => Finding::ok(NAME, summary),
        Lock::Hidden => Finding::warning(
            NAME,
            summary,
            "use DynamoDB, or an emulator that knows ReturnValuesOnConditionCheckFailure",
        ),
        Lock::Malformed(..) => Finding::failure(
            NAME,
            summary,
            "if no writer is running, delete it with `efs-sqlite unlock`",
        ),
    });
    findings.extend(journal::examine(file, Writer::of(&lock)));
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn exchange(date: u64, sent: f64, received: f64) -> Exchange {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds);
        Exchange {
            sent: at(sent),
            received: at(received),
            date: UNIX_EPOCH + Duration::from_secs(date),
        }
    }

    #[test]
    fn the_clocks_difference_is_bounded_by_all_answers_together() {
        let both = [exchange(100, 100.9, 100.95), exchange(101, 101.1, 101.2)];
        let (least, most) = ahead(both).unwrap();
        assert!(least <= 0.0 && most >= 0.0, "{least} {most}");
        assert!((most - least) < 1.0, "narrower than by one answer");
        let (least, _) = ahead([exchange(100, 3_700.0, 3_700.1)]).unwrap();
        assert!((least - 3_599.0).abs() < 0.01, "{least}");
        let (_, most) = ahead([exchange(3_700, 100.0, 100.1)]).unwrap();
        assert!((most + 3_599.9).abs() < 0.01, "{most}");
        assert_eq!(ahead([]), None);
    }
}
