//! Where what the tests build or install by themselves goes, once for all processes.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where the workspace's build goes: the directory that cargo has marked as its own above this
/// very program, which follows `CARGO_TARGET_DIR` and the like.
pub(crate) fn directory() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    (program.ancestors())
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
            Path::to_path_buf,
        )
}

/// Makes the directory, and keeps other processes from working in it at the same time, for as long
/// as the file is open.
pub(crate) fn lock(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(".build-lock"))?;
    file.lock()?;
    Ok(file)
}
