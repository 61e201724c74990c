//! An acquisition that waits in vain ends in time. See `url/properties.rs` for how to repeat a run.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{KEY, client};
use crate::error::LockError;
use crate::lease::acquire::AcquireLimits;
use crate::store::{InMemoryLockStore, StoredItem};
use crate::testing::{HookedStore, Put};

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_asked_beyond_the_time_or_the_attempts(
        timeout in (0..30_000_u64).prop_map(Duration::from_micros),
        max_attempts in prop::option::of(1..6_u32),
    ) {
        // Its item is another's for good.
        let table = Arc::new(InMemoryLockStore::new());
        table.set_item(KEY, Some(StoredItem {
            lock_id: "another".to_owned(),
            expires_at: "9999999999".to_owned(),
            holder: None,
            acquired_at: None,
            committed: None,
            waited: None,
        }));
        // When it was asked, and for how long at most.
        let asked = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let asked = asked.clone();
            move |put: Put<'_>| {
                asked.lock().expect("no panic").push((Instant::now(), put.give_up_after));
                put.pass_on()
            }
        };
        let client = client(HookedStore::new(table, hook));
        let began = Instant::now();
        let until = began + timeout;
        let mut acquisition = client.begin(KEY);
        let error = acquisition.wait(AcquireLimits { until, max_attempts }).unwrap_err();
        let LockError::Busy { attempts, .. } = error else {
            return Err(TestCaseError::fail(format!("{error}")));
        };
        let asked = asked.lock().expect("no panic").clone();
        prop_assert_eq!(attempts as usize, asked.len());
        if let Some(most) = max_attempts {
            prop_assert!(attempts <= most, "{attempts} of {most} attempts");
        }
        // A request is given no more time than there is left, and is not sent when there is none:
        // each by what the clock said before it.
        let mut before = began;
        for (nth, (at, give_up_after)) in asked.into_iter().enumerate() {
            let left = until.saturating_duration_since(before);
            prop_assert!(give_up_after <= left, "{give_up_after:?} of {left:?}");
            prop_assert!(nth == 0 || !left.is_zero(), "asked when the time was up");
            before = at;
        }
    }
}
