//! What may be in the database, by what the writers have said.

use std::collections::{BTreeMap, BTreeSet};

use crate::told::{Audit, Runs, Told};

/// The writes of all writers that there have been, by their names.
#[derive(Debug, Default)]
pub(crate) struct Model {
    writers: BTreeMap<String, Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    acknowledged: BTreeSet<i64>,
    /// Neither acknowledged nor refused: its process has died, or does not know, or is at it.
    open: BTreeSet<i64>,
}

/// What was acknowledged when an audit began.
#[derive(Debug)]
pub(crate) struct Demand(BTreeMap<String, Runs>);

impl Model {
    pub(crate) fn take(&mut self, writer: &str, told: &Told) {
        let writes = self.writers.entry(writer.to_owned()).or_default();
        match told {
            Told::Begun { sequence } | Told::Unknown { sequence } => {
                writes.open.insert(*sequence);
            }
            Told::Written { sequence } => {
                writes.open.remove(sequence);
                writes.acknowledged.insert(*sequence);
            }
            Told::Refused { sequence, .. } => {
                writes.open.remove(sequence);
            }
            Told::Read { .. } | Told::Broken { .. } | Told::Audited(_) => {}
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.writers
            .values()
            .map(|writes| writes.acknowledged.len())
            .sum()
    }

    /// Taken before an audit is asked for.
    pub(crate) fn demand(&self) -> Demand {
        let writers = self.writers.iter();
        Demand(
            writers
                .map(|(name, writes)| (name.clone(), Runs::of(&writes.acknowledged)))
                .collect(),
        )
    }

    /// What is wrong with what an audit has found, once all was heard that was said before its end.
    pub(crate) fn violations(&self, demand: &Demand, audit: &Audit) -> Vec<String> {
        let mut wrong = Vec::new();
        if !audit.snapshot.is_whole() {
            wrong.push(format!("a mixture of states: {}", audit.snapshot));
        }
        if audit.duplicates != 0 {
            wrong.push(format!("{} lost updates", audit.duplicates));
        }
        if audit.integrity != ["ok"] {
            wrong.push(format!("integrity_check: {}", audit.integrity.join("; ")));
        }
        let none = Runs::default();
        for (writer, acknowledged) in &demand.0 {
            let found = audit.found.get(writer).unwrap_or(&none);
            let lost = acknowledged
                .iter()
                .filter(|sequence| !found.contains(*sequence));
            wrong.extend(lost.map(|sequence| {
                format!("write {sequence} of {writer} was acknowledged and is not there")
            }));
        }
        for (writer, found) in &audit.found {
            let writes = self.writers.get(writer);
            let may_be = |sequence: &i64| {
                writes.is_some_and(|writes| {
                    writes.acknowledged.contains(sequence) || writes.open.contains(sequence)
                })
            };
            wrong.extend(
                found
                    .iter()
                    .filter(|sequence| !may_be(sequence))
                    .map(|sequence| {
                        format!("write {sequence} of {writer} was refused and is there")
                    }),
            );
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use quickstart::ledger::Snapshot;

    use super::*;

    fn audit(found: &[i64]) -> Audit {
        let entries = i64::try_from(found.len()).unwrap();
        Audit {
            snapshot: Snapshot {
                counter: entries,
                entries,
                balance: Snapshot::BALANCE,
            },
            duplicates: 0,
            integrity: vec!["ok".to_owned()],
            found: BTreeMap::from([("w".to_owned(), Runs::of(&found.iter().copied().collect()))]),
        }
    }

    fn model(told: &[Told]) -> Model {
        let mut model = Model::default();
        for told in told {
            model.take("w", told);
        }
        model
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_refused_must_not() {
        let refused = Told::Refused {
            sequence: 2,
            error: String::new(),
        };
        let model = model(&[
            Told::Begun { sequence: 1 },
            Told::Written { sequence: 1 },
            Told::Begun { sequence: 2 },
            refused,
            Told::Begun { sequence: 3 },
            Told::Unknown { sequence: 3 },
            Told::Begun { sequence: 4 },
        ]);
        let judge = |found: &[i64]| model.violations(&model.demand(), &audit(found));
        assert!(judge(&[1]).is_empty());
        assert!(judge(&[1, 3, 4]).is_empty(), "nobody knows");
        assert_eq!(judge(&[3]).len(), 1, "lost");
        assert_eq!(judge(&[1, 2]).len(), 1, "refused, and there");
        assert_eq!(judge(&[1, 5]).len(), 1, "never begun");
    }

    #[test]
    fn what_is_acknowledged_during_an_audit_may_be_there_or_not() {
        let mut model = model(&[Told::Begun { sequence: 1 }]);
        let demand = model.demand();
        model.take("w", &Told::Written { sequence: 1 });
        for found in [&[][..], &[1]] {
            assert!(model.violations(&demand, &audit(found)).is_empty());
        }
    }

    #[test]
    fn a_mixture_a_lost_update_and_a_broken_index_are_seen() {
        let model = model(&[]);
        let mut audit = audit(&[]);
        audit.snapshot.counter = 1;
        audit.duplicates = 1;
        audit.integrity = vec!["row 1 missing from index i".to_owned()];
        assert_eq!(model.violations(&model.demand(), &audit).len(), 3);
    }
}
