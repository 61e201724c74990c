//! No lock table: one machine, where SQLite's file locks suffice.

use std::time::Duration;

use super::{DeleteAnswer, LockItem, LockStore, PutAnswer, PutCondition};
use crate::error::StoreError;

/// Grants every lease (`lock=local`): SQLite's RESERVED lock excludes other writers.
#[derive(Debug)]
pub(crate) struct NoLock;

impl LockStore for NoLock {
    fn put(
        &self,
        _item: &LockItem,
        _condition: PutCondition<'_>,
        _give_up_after: Duration,
    ) -> Result<PutAnswer, StoreError> {
        Ok(PutAnswer::stored(None))
    }

    fn delete(
        &self,
        _key: &str,
        _lock_id: &str,
        _give_up_after: Duration,
    ) -> Result<DeleteAnswer, StoreError> {
        Ok(DeleteAnswer::Deleted)
    }

    fn table(&self) -> &str {
        "local"
    }
}
