//! The only unsafe code: takes SQLite's pointers and calls safe code.
//!
//! | file | job |
//! |---|---|
//! | `registration.rs` | the VFS as SQLite knows it |
//! | `vfs_methods.rs` | its methods: opening, deleting, looking for files by their names |
//! | `file_methods.rs` | the methods of the files that it opens |
//! | `connection.rs` | a connection and its main file find each other while it is opened |
//! | `callbacks.rs` | busy handler, rollback hook and authorizer of a connection |
//! | `read_buffer.rs` | memory of SQLite's that a read fills |
//! | `guard.rs` | no panic crosses into C |
//! | `base.rs` | the base VFS and its files, as owners with safe methods |
//!
//! A function that SQLite calls is a `_trampoline`. Its contract is that SQLite calls it as
//! documented, with the objects it was registered for: <https://sqlite.org/c3ref/vfs.html>,
//! <https://sqlite.org/c3ref/io_methods.html>. Decisions are made on the safe side: by the
//! [`IoMethods`](super::io_methods::IoMethods) of a file and by the
//! [`WriteLock`](crate::write_lock::WriteLock).

mod base;
mod callbacks;
mod connection;
mod file_methods;
mod guard;
mod read_buffer;
mod registration;
mod vfs_methods;

pub(super) use self::base::BaseFile;
pub(super) use self::connection::{Connection, open};
pub(super) use self::read_buffer::ReadBuffer;
pub(super) use self::registration::shim_over;
