//! Leases from their grant to their end, with a store that a test rules.

use std::sync::Arc;

use super::client::LockClient;
use crate::clock::Clock;
use crate::store::LockStore;

mod acquire;
mod acquire_properties;
mod ends;
mod hand_off;
mod renewal;

const KEY: &str = "database#test";

fn client(store: Arc<dyn LockStore>) -> LockClient {
    let builder = LockClient::builder().lock_store(store);
    builder.build().expect("all are defaults")
}

fn client_with_clock(store: Arc<dyn LockStore>, clock: Clock) -> LockClient {
    let builder = LockClient::builder().lock_store(store).clock(clock);
    builder.build().expect("all are defaults")
}
