//! The page that shows the write lock: who holds it now, and what it has cost this process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use diesel_sqlite_efs::{
    HolderInfo, LockItem, LockName, LockStats, LockStore, PutAnswer, PutCondition, StoreError,
    StoredItem, process_lock_stats,
};
use uuid::Uuid;

use super::guard::SignedIn;
use crate::app::App;
use crate::assets;
use crate::failure::Failure;
use crate::lock_log::LockEvent;
use crate::page::{self, Frame, Live};
use crate::refusal::Refusal;

/// How often the page looks, in seconds.
const PERIOD: u32 = 2;
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the lock's item is.
#[derive(Debug, Clone)]
pub(crate) struct LockView {
    pub(crate) name: LockName,
    pub(crate) store: Arc<dyn LockStore>,
}

impl LockView {
    /// The item as it is now. Blocks.
    ///
    /// By a write whose condition never holds, as nobody has its `lock_id`: the refusal shows the
    /// item. So the function needs no permission to read, and each look costs a write request.
    fn look(&self) -> Result<Option<StoredItem>, StoreError> {
        let nobodys = LockItem::new(
            &self.name.key,
            Uuid::new_v4().to_string(),
            SystemTime::UNIX_EPOCH,
        );
        let never = PutCondition::ours(None);
        match self.store.put(&nobodys, never, PATIENCE)? {
            PutAnswer::Refused { current, .. } => Ok(current),
            // Only a store that does not look at conditions has stored it.
            _ => Ok(None),
        }
    }
}

/// What a look has shown, for people.
enum Sight {
    /// No lock table: SQLite's file locks alone.
    Local,
    Free,
    Held(String),
    Expired(String),
    Unseen(String),
}

#[derive(Template)]
#[template(path = "admin/lock.html")]
struct LockPage {
    frame: Frame,
    name: Option<LockName>,
    sight: Sight,
    stats: LockStats,
    events: Vec<LockEvent>,
}

/// The one page that asks DynamoDB although nothing is written: it is about the lock.
pub(crate) async fn page(
    State(app): State<App>,
    SignedIn(session): SignedIn,
    Query(live): Query<Live>,
) -> Result<Response, Refusal> {
    let view = app.lock_view().cloned();
    let name = view.as_ref().map(|view| view.name.clone());
    let look = tokio::task::spawn_blocking(move || see(view.as_ref())).await;
    page::render(&LockPage {
        frame: Frame::new(&app, &session).live("/admin/lock".to_owned(), PERIOD, &live),
        name,
        sight: look.map_err(|died| Failure::died(&died))?,
        stats: process_lock_stats(),
        events: app.lock_log().events(),
    })
}

fn see(view: Option<&LockView>) -> Sight {
    let Some(view) = view else {
        return Sight::Local;
    };
    match view.look() {
        Ok(None) => Sight::Free,
        Ok(Some(item)) => sight_of(&item, SystemTime::now()),
        Err(error) => Sight::Unseen(error.to_string()),
    }
}

fn sight_of(item: &StoredItem, now: SystemTime) -> Sight {
    let until = match item.lease_end() {
        Ok(until) => until,
        Err(error) => return Sight::Unseen(error.to_string()),
    };
    let holder = HolderInfo::from(item);
    if until < now {
        Sight::Expired(holder.to_string())
    } else {
        Sight::Held(holder.to_string())
    }
}

#[cfg(test)]
mod tests {
    use diesel_sqlite_efs::{InMemoryLockStore, LockClient};

    use super::*;

    #[test]
    fn a_look_shows_the_holder_and_changes_nothing() -> Result<(), Box<dyn std::error::Error>> {
        let store = Arc::new(InMemoryLockStore::new());
        let view = LockView {
            name: LockName::new("polls", "memory").with_database("polls.db"),
            store: store.clone(),
        };
        assert!(matches!(see(Some(&view)), Sight::Free));
        assert_eq!(store.item("polls"), None, "a look leaves nothing");

        let builder = LockClient::builder().lock_store(store.clone());
        let client = builder.lock_holder("somebody").build()?;
        let lease = client.acquire("polls", Duration::ZERO)?;
        let before = store.item("polls");
        let Sight::Held(told) = see(Some(&view)) else {
            return Err("held".into());
        };
        assert!(told.contains("somebody"), "{told}");
        assert_eq!(store.item("polls"), before);
        lease.release()?;
        Ok(())
    }

    #[test]
    fn an_expired_item_is_not_held() {
        let item = StoredItem::new("gone", "1000");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(matches!(sight_of(&item, at(1001)), Sight::Expired(_)));
        assert!(matches!(sight_of(&item, at(999)), Sight::Held(_)));
    }
}
