//! The pages in `docs/` whose examples are compiled and run with the tests of the documentation.
//!
//! Here and not in the crate itself: the examples use features and packages that only the tests
//! have, and the pages are not part of the published package.

#[doc = include_str!("../../docs/async.md")]
mod asynchronous {}

#[doc = include_str!("../../docs/migrations.md")]
mod migrations {}

#[doc = include_str!("../../docs/moving.md")]
mod moving {}

#[doc = include_str!("../../docs/observability.md")]
mod observability {}

#[doc = include_str!("../../docs/pools.md")]
mod pools {}

#[doc = include_str!("../../docs/testing.md")]
mod testing {}
