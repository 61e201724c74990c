//! What all connections of this process that use one store have in common.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::hand_on::Queue;
use super::keeper::Keeper;
use super::pace::Experience;
use super::server_clock::ServerClock;
use crate::store::LockStore;

/// The store's clock, the thread that renews leases, and for each key the waiting line and what was
/// learnt in it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) server_clock: ServerClock,
    pub(crate) keeper: Keeper,
    queues: Mutex<HashMap<String, Weak<Queue>>>,
    fastest_answer: Mutex<Option<Duration>>,
    experiences: Mutex<HashMap<String, Experience>>,
}

/// By the store's address. A user keeps both alive, so no other store can have it.
static BY_STORE: LazyLock<Mutex<HashMap<usize, Weak<Shared>>>> = LazyLock::new(Mutex::default);

impl Shared {
    /// What is shared by all users of this very store.
    pub(crate) fn of(store: &Arc<dyn LockStore>) -> Arc<Self> {
        let address = Arc::as_ptr(store).cast::<()>().addr();
        let mut stores = BY_STORE.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|_, shared| shared.strong_count() > 0);
        upgrade_or_default(stores.entry(address).or_default())
    }

    /// A request was answered in this time.
    pub(crate) fn answered_in(&self, took: Duration) {
        let mut fastest = (self.fastest_answer.lock()).unwrap_or_else(PoisonError::into_inner);
        *fastest = Some(fastest.map_or(took, |fastest| fastest.min(took)));
    }

    /// What a request takes at least, as far as is known.
    pub(crate) fn fastest_answer(&self) -> Duration {
        let fastest = self.fastest_answer.lock();
        fastest
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or_default()
    }

    /// How the last acquisition of `key` in this process went.
    pub(crate) fn experience(&self, key: &str) -> Option<Experience> {
        self.experiences().get(key).copied()
    }

    /// Remembers how an acquisition of `key` went, and forgets what is out of date.
    pub(crate) fn remember(&self, key: &str, experience: Experience) {
        let mut experiences = self.experiences();
        if let Some(last) = experiences.get_mut(key) {
            *last = experience;
            return;
        }
        let now = Instant::now();
        experiences.retain(|_, experience| experience.is_recent(now));
        experiences.insert(key.to_owned(), experience);
    }

    /// As if this process had never asked for a lease.
    #[cfg(test)]
    pub(crate) fn forget_all(&self) {
        self.experiences().clear();
    }

    fn experiences(&self) -> MutexGuard<'_, HashMap<String, Experience>> {
        (self.experiences.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// The line in which all wait for `key`.
    pub(crate) fn queue(&self, key: &str) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        upgrade_or_default(queues.entry(key.to_owned()).or_default())
    }
}

fn upgrade_or_default<T: Default>(entry: &mut Weak<T>) -> Arc<T> {
    entry.upgrade().unwrap_or_else(|| {
        let new = Arc::new(T::default());
        *entry = Arc::downgrade(&new);
        new
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::InMemoryLockStore;

    #[test]
    fn keys_and_stores_have_lines_of_their_own() {
        let store: Arc<dyn LockStore> = Arc::new(InMemoryLockStore::new());
        let other: Arc<dyn LockStore> = Arc::new(InMemoryLockStore::new());
        let (shared, elsewhere) = (Shared::of(&store), Shared::of(&other));
        let line = shared.queue("a");
        assert!(Arc::ptr_eq(&line, &Shared::of(&store.clone()).queue("a")));
        assert!(!Arc::ptr_eq(&line, &shared.queue("b")));
        assert!(!Arc::ptr_eq(&line, &elsewhere.queue("a")));
    }
}
