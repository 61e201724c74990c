//! The thread that renews long-held leases.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lease::LeaseInner;

/// One for each store: its thread starts with the first lease, and is joined when the last client
/// and the last lease are gone.
///
/// No guarantee depends on it: a lease that it does not renew in time is lost, by its holder's
/// clocks.
#[derive(Debug, Default)]
pub(crate) struct Renewer {
    duties: Arc<Duties>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Duties {
    work: Mutex<Work>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    watched: Vec<Weak<LeaseInner>>,
    /// When the thread next looks at the watched leases by itself; `None`: when it is woken.
    looks_at: Option<Instant>,
    closing: bool,
}

impl Renewer {
    /// Renews the lease while it is held.
    pub(crate) fn watch(&self, lease: &Arc<LeaseInner>) {
        let mut work = self.duties.work();
        work.watched.push(Arc::downgrade(lease));
        let now = Instant::now();
        let due = lease.next_renewal().map(|left| now + left);
        if due.is_some_and(|due| work.looks_at.is_none_or(|looks_at| due < looks_at)) {
            self.duties.wake.notify_one();
        }
        drop(work);
        self.ensure_thread();
    }

    /// Without a thread nothing is renewed, which costs long transactions their lease.
    fn ensure_thread(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let duties = self.duties.clone();
            let name = "efs-lease-renewer".to_owned();
            *thread = (thread::Builder::new().name(name))
                .spawn(move || duties.run())
                .ok();
        }
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.duties.work().closing = true;
        self.duties.wake.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Never on that thread itself, which has no lease of its own to drop.
        if let Some(thread) = thread {
            // A panic on that thread has been printed; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

impl Duties {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.work();
        loop {
            if work.closing {
                return;
            }
            let watched = std::mem::take(&mut work.watched);
            drop(work);
            let (watched, next) = Self::renew_due(&watched);
            work = self.work();
            let has_news = !work.watched.is_empty() || work.closing;
            work.watched.extend(watched);
            if has_news {
                continue;
            }
            let now = Instant::now();
            work.looks_at = next.map(|next| now + next);
            work = match next {
                Some(next) => {
                    (self.wake.wait_timeout(work, next))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
            work.looks_at = Some(Instant::now());
        }
    }

    /// Renews a lease that is due. Returns those that will be, and in what time the next is.
    ///
    /// Not with the work locked, since it makes a request.
    fn renew_due(watched: &[Weak<LeaseInner>]) -> (Vec<Weak<LeaseInner>>, Option<Duration>) {
        /// After a failure, or while another request is under way.
        const PAUSE: Duration = Duration::from_millis(50);
        let leases: Vec<_> = watched.iter().filter_map(Weak::upgrade).collect();
        let is_due = |lease: &&Arc<LeaseInner>| lease.next_renewal() == Some(Duration::ZERO);
        if let Some(lease) = leases.iter().find(is_due)
            && !lease.renew_if_free()
        {
            thread::sleep(PAUSE);
        }
        let mut next: Option<Duration> = None;
        let watched = leases.iter().filter_map(|lease| {
            let left = lease.next_renewal()?;
            next = Some(next.map_or(left, |next| next.min(left)));
            Some(Arc::downgrade(lease))
        });
        (watched.collect(), next)
    }
}
