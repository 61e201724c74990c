//! What all users of one store share in this process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::lease::LocalQueue;
use super::renewer::Renewer;
use super::requests::StoreTimes;
use super::wait_policy::RecentWait;
use crate::store::LockStore;

/// What is known of the store, the thread that renews its leases, and for each key the queue and
/// what the last acquisition was like.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) times: Arc<StoreTimes>,
    pub(crate) renewer: Renewer,
    queues: Mutex<HashMap<String, Weak<LocalQueue>>>,
    recent_waits: Mutex<HashMap<String, RecentWait>>,
}

/// By the store's address. A user keeps both alive, so no other store can have it.
static BY_STORE: LazyLock<Mutex<HashMap<usize, Weak<Registry>>>> = LazyLock::new(Mutex::default);

impl Registry {
    /// What is shared by all users of this very store.
    pub(crate) fn of(store: &Arc<dyn LockStore>) -> Arc<Self> {
        let address = Arc::as_ptr(store).cast::<()>().addr();
        let mut stores = BY_STORE.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|_, registry| registry.strong_count() > 0);
        upgrade_or_default(stores.entry(address).or_default())
    }

    /// The queue of those in this process who want `key`.
    pub(crate) fn queue(&self, key: &str) -> Arc<LocalQueue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        upgrade_or_default(queues.entry(key.to_owned()).or_default())
    }

    /// What the last acquisition of `key` in this process was like.
    pub(crate) fn recent_wait(&self, key: &str) -> Option<RecentWait> {
        self.recent_waits().get(key).copied()
    }

    /// Remembers what an acquisition of `key` was like, and forgets what is out of date.
    pub(crate) fn remember(&self, key: &str, wait: RecentWait) {
        let mut recent_waits = self.recent_waits();
        if let Some(last) = recent_waits.get_mut(key) {
            *last = wait;
            return;
        }
        let now = Instant::now();
        recent_waits.retain(|_, wait| wait.is_recent(now));
        recent_waits.insert(key.to_owned(), wait);
    }

    /// As if this process had never asked for a lease.
    #[cfg(test)]
    pub(crate) fn forget_waits(&self) {
        self.recent_waits().clear();
    }

    fn recent_waits(&self) -> MutexGuard<'_, HashMap<String, RecentWait>> {
        (self.recent_waits.lock()).unwrap_or_else(PoisonError::into_inner)
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
    fn keys_and_stores_have_queues_of_their_own() {
        let store: Arc<dyn LockStore> = Arc::new(InMemoryLockStore::new());
        let other: Arc<dyn LockStore> = Arc::new(InMemoryLockStore::new());
        let (registry, elsewhere) = (Registry::of(&store), Registry::of(&other));
        let queue = registry.queue("a");
        assert!(Arc::ptr_eq(
            &queue,
            &Registry::of(&store.clone()).queue("a")
        ));
        assert!(!Arc::ptr_eq(&queue, &registry.queue("b")));
        assert!(!Arc::ptr_eq(&queue, &elsewhere.queue("a")));
    }
}
