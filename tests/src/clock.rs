//! Clocks of hosts that are wrong.

use std::thread;
use std::time::Duration;

use diesel_sqlite_efs::{Clock, ManualClock, Timestamp};

/// A clock that tells what `now` tells: it is asked again every few milliseconds, by a thread that
/// runs until the process ends.
pub fn following(now: impl Fn() -> Timestamp + Send + 'static) -> Clock {
    const TICK: Duration = Duration::from_millis(5);
    let clock = ManualClock::new(now());
    let ticking = clock.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(TICK);
            ticking.set(now());
        }
    });
    clock.clock()
}
