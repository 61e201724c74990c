//! The lock table: the way to it, its clock, what is permitted, what it is like, who holds the lock.

use std::time::Duration;

use super::files::{self, Place};
use crate::cli::create_table::wrong_key;
use crate::cli::holder::{self, Lock};
use crate::cli::output::Finding;
use crate::cli::target::Target;
use crate::error::{LockName, StoreError};
use crate::store::dynamodb::admin::{Look, TimeToLive, Way};
use crate::store::{DynamoDbLockStore, StoredItem};

/// How often the item is looked at, for the latency and the clock.
const LOOKS: usize = 5;

/// What is known of the writer, for whose journal it may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holder<'a> {
    /// `lock=local`.
    NoTable,
    /// The table does not answer.
    NotKnown,
    Live(&'a StoredItem),
    /// Nobody holds the lock; what the last one has left, if anything.
    Gone(Option<&'a StoredItem>),
}

pub(super) fn examine(
    target: &Target,
    lock: &LockName,
    place: &Place,
    findings: &mut Vec<Finding>,
) {
    let store = DynamoDbLockStore::new(&lock.table);
    let looks = match look_often(&store, &lock.key) {
        Ok(looks) => looks,
        Err(error) => {
            findings.push(unanswered(&error));
            findings.extend(files::journal(place, Holder::NotKnown));
            return;
        }
    };
    findings.push(endpoint(&store, &looks));
    findings.push(clock(target, &looks));
    findings.push(permissions(&store, &lock.key));
    findings.push(schema(&store));
    findings.push(time_to_live(&store));
    holder_and_journal(&store, &lock.key, place, findings);
}

/// The first one sets everything up.
fn look_often(store: &DynamoDbLockStore, key: &str) -> Result<Vec<Look>, StoreError> {
    (0..=LOOKS).map(|_| store.look(key)).collect()
}

/// Why not even one answer came.
fn unanswered(error: &StoreError) -> Finding {
    let name = match error {
        StoreError::AccessDenied { .. } => "permissions",
        StoreError::Credentials { .. } => "credentials",
        StoreError::TableMissing { .. } | StoreError::TableSchema { .. } => "lock table",
        _ => "endpoint",
    };
    let mut finding = Finding::of_error(name, error);
    if matches!(error, StoreError::TableMissing { .. }) {
        finding.remedy = Some(
            "create it with `efs-sqlite create-table`, or check its name and AWS_REGION".to_owned(),
        );
    }
    finding
}

fn endpoint(store: &DynamoDbLockStore, looks: &[Look]) -> Finding {
    const NAME: &str = "endpoint";
    /// Several times what DynamoDB takes within a Region.
    const SLOW: Duration = Duration::from_millis(50);
    let mut times: Vec<_> = looks.iter().skip(1).map(|look| look.took).collect();
    times.sort();
    let median = times[times.len() / 2];
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let text = format!(
        "{} (region {}) answers in {} (median of {}; {} to {}; the first took {})",
        looks[0].endpoint.as_deref().unwrap_or("DynamoDB"),
        store.region().unwrap_or_default(),
        milliseconds(median),
        times.len(),
        milliseconds(times[0]),
        milliseconds(times[times.len() - 1]),
        milliseconds(looks[0].took),
    );
    if median > SLOW {
        let remedy = "each write makes three such requests: use a table in this Region, and in a \
                      VPC a gateway endpoint";
        return Finding::warning(NAME, text, remedy);
    }
    Finding::ok(NAME, text)
}

/// How far this host's clock is ahead of the service's at least, in seconds, and at most: an
/// answer's date has a resolution of one second.
fn ahead(looks: &[Look]) -> Option<(f64, f64)> {
    let bounds = looks.iter().filter_map(|look| {
        let date = holder::seconds(look.date?);
        let (sent, received) = (holder::seconds(look.sent), holder::seconds(look.received));
        Some((sent - (date + 1.0), received - date))
    });
    bounds.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)))
}

fn clock(target: &Target, looks: &[Look]) -> Finding {
    const NAME: &str = "clock";
    /// What a holder stops early by, so what clocks may differ by at least.
    const TOLERABLE: f64 = 2.0;
    const REMEDY: &str = "set this host's clock by NTP (chrony): the lock goes by DynamoDB's, but the Python package goes by its host's, and AWS refuses requests that are 5 minutes off";
    let Some((least, most)) = ahead(looks) else {
        return Finding::warning(
            NAME,
            "not known: the answers have no date",
            "without it, expired leases are judged by this host's clock: keep it right by NTP",
        );
    };
    let tolerable = TOLERABLE.min(target.settings.lease.as_secs_f64() / 4.0);
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

fn permissions(store: &DynamoDbLockStore, key: &str) -> Finding {
    const NAME: &str = "permissions";
    let mut denied = Vec::new();
    for (way, action) in [(Way::Put, "PutItem"), (Way::Delete, "DeleteItem")] {
        match store.look_by(way, key) {
            Ok(_) => {}
            Err(StoreError::AccessDenied { .. }) => denied.push(format!("dynamodb:{action}")),
            Err(error) => return Finding::of_error(NAME, &error),
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

fn schema(store: &DynamoDbLockStore) -> Finding {
    const NAME: &str = "lock table";
    let facts = match store.describe() {
        Ok(facts) => facts,
        Err(error) => return not_known(NAME, &error, "dynamodb:DescribeTable"),
    };
    let billing = match facts.is_on_demand {
        true => "on-demand",
        false => "provisioned capacity",
    };
    let text = format!("{}, {billing}", facts.status.to_lowercase());
    if let Some(problem) = wrong_key(&facts) {
        return Finding::failure(NAME, problem, "give the lock a table of its own");
    }
    if facts.has_lagging_replicas {
        return Finding::failure(
            NAME,
            format!("{text}, with replicas in other Regions, each of which would grant the lock"),
            "use a table without replicas, or let all writers use one Region",
        );
    }
    if facts.is_on_demand {
        Finding::ok(NAME, format!("key pk (S), {text}"))
    } else {
        let remedy = "use on-demand capacity, which does not throttle short bursts";
        Finding::warning(NAME, format!("key pk (S), {text}"), remedy)
    }
}

fn time_to_live(store: &DynamoDbLockStore) -> Finding {
    const NAME: &str = "TTL";
    match store.time_to_live() {
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
        Ok(TimeToLive::Off | TimeToLive::Ending) => Finding::warning(
            NAME,
            "off: what crashed writers leave stays until somebody writes again",
            "nothing, if that is meant; else run `efs-sqlite create-table`",
        ),
        Err(error) => not_known(NAME, &error, "dynamodb:DescribeTimeToLive"),
    }
}

fn not_known(name: &'static str, error: &StoreError, action: &str) -> Finding {
    match error {
        StoreError::AccessDenied { .. } => Finding::warning(
            name,
            format!("not known: {action} is denied"),
            format!("nothing, the lock does without it; to have it examined, allow {action}"),
        ),
        error => Finding::of_error(name, error),
    }
}

fn holder_and_journal(
    store: &DynamoDbLockStore,
    key: &str,
    place: &Place,
    findings: &mut Vec<Finding>,
) {
    const NAME: &str = "lock";
    // The journal is looked at after the item: a commit that begins in between is then seen as a
    // journal without a holder, and worth another look at both.
    let mut look = store.look(key);
    let lock = look.as_ref().map(Lock::of);
    let journal = files::journal(place, holder_of(lock.as_ref().ok()));
    let is_unclaimed = !matches!(lock, Ok(Lock::Held(_)))
        && journal.as_ref().is_some_and(|found| found.remedy.is_some());
    if is_unclaimed {
        look = store.look(key);
    }
    let (lock, now) = match &look {
        Ok(look) => (Lock::of(look), holder::now(look)),
        Err(error) => {
            findings.push(Finding::of_error(NAME, error));
            findings.extend(journal);
            return;
        }
    };
    let summary = lock.summary(now);
    findings.push(match &lock {
        Lock::Free | Lock::Held(_) => Finding::ok(NAME, summary),
        Lock::Expired(_) => Finding::ok(NAME, summary),
        Lock::Untold => Finding::warning(
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
    findings.extend(files::journal(place, holder_of(Some(&lock))));
}

fn holder_of(lock: Option<&Lock>) -> Holder<'_> {
    match lock {
        Some(Lock::Held(seen)) => Holder::Live(seen),
        Some(Lock::Expired(seen)) => Holder::Gone(Some(seen)),
        Some(Lock::Free) => Holder::Gone(None),
        Some(Lock::Malformed(..) | Lock::Untold) | None => Holder::NotKnown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::store::dynamodb::admin::Standing;

    fn look(date: u64, sent: f64, received: f64) -> Look {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds);
        Look {
            standing: Standing::Nothing,
            date: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(date)),
            sent: at(sent),
            received: at(received),
            took: Duration::ZERO,
            endpoint: None,
        }
    }

    #[test]
    fn the_clocks_difference_is_bounded_by_all_answers_together() {
        let (least, most) = ahead(&[look(100, 100.9, 100.95), look(101, 101.1, 101.2)]).unwrap();
        assert!(least <= 0.0 && most >= 0.0, "{least} {most}");
        assert!((most - least) < 1.0, "narrower than one answer tells");
        let (least, _) = ahead(&[look(100, 3_700.0, 3_700.1)]).unwrap();
        assert!((least - 3_599.0).abs() < 0.01, "{least}");
        let (_, most) = ahead(&[look(3_700, 100.0, 100.1)]).unwrap();
        assert!((most + 3_599.9).abs() < 0.01, "{most}");
        assert_eq!(ahead(&[]), None);
    }
}
