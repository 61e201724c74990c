//! The parameters of a main file.

use std::sync::Arc;

use crate::config::ReadCheck;
use crate::files::fs_kind::FileSystem;
use crate::write_lock::WriteLock;

/// What is decided about a main file before SQLite opens it.
pub(crate) struct OpenParams {
    pub(crate) lock: Arc<WriteLock>,
    pub(crate) read_check: ReadCheck,
    pub(crate) normal_sync_allowed: bool,
    pub(crate) file_system: FileSystem,
}
