//! What `cargo bench` and the report measure alike: the work of one process, by this crate's
//! connection and by Diesel's own.

pub mod figures;
pub mod one_process;
