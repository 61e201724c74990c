//! What the quickstart has in common with other programs that put a database to the test.

pub mod ledger;
pub mod progress;
