//! What the crate promises, tested from outside: one binary, a module for each promise.

mod answers;
mod clocks;
mod deadlines;
mod diesel_traits;
mod driver;
mod events;
mod every_point;
mod files;
mod harness;
mod kills;
mod lock_keys;
mod nfs;
mod pools;
mod processes;
mod protocol;
mod python_package;
mod recovery;
mod retrying;
mod seed_defects;
mod settings;
mod statements;
mod support;
mod surroundings;
mod transactions;
mod two_mounts;
mod worker;
