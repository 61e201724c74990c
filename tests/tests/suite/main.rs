//! What the crate promises, tested from outside: one binary, a module for each promise.

mod events;
mod diesel_traits;
mod harness;
mod statements;
mod support;
mod transactions;
