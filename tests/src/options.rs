//! What a person may ask of a test run, by environment variables of one prefix.
//!
//! | variable | effect |
//! |---|---|
//! | `EFS_TESTS=long` | the long form of each test that has one: every case and not a sample, loads for a minute |
//! | `EFS_TESTS_SEED=<number>` | repeats the sample (`every_point`) or the case (`kills`) of this seed, which a failure prints |
//! | `EFS_TESTS_CASE=<name>` | `every_point` tries this case only; a failure prints its name |
//! | `EFS_TESTS_NFS_RIG=<program>` | the rig for the tests of `nfs` |
//! | `EFS_TESTS_SCREENSHOTS=<directory>` | the browser tests of `polls` save their pictures here |

use std::env::{self, VarError};
use std::path::PathBuf;

/// Whether the long forms of the tests are to run: `EFS_TESTS=long`.
///
/// # Panics
/// If the variable has another value.
pub fn is_long() -> bool {
    match text("EFS_TESTS").as_deref() {
        None => false,
        Some("long") => true,
        Some(other) => panic!("EFS_TESTS is `long` or not set, and not `{other}`"),
    }
}

/// For how many seconds a load runs: `short`, or a minute in the long form.
pub fn load_seconds(short: u32) -> u32 {
    if is_long() { 60 } else { short }
}

/// `EFS_TESTS_SEED`: in place of a random seed, or of many.
///
/// # Panics
/// If it is not a number.
pub fn seed() -> Option<u64> {
    text("EFS_TESTS_SEED").map(|seed| seed.parse().expect("EFS_TESTS_SEED is a number"))
}

/// `EFS_TESTS_CASE`: the only case to try.
pub fn case() -> Option<String> {
    text("EFS_TESTS_CASE")
}

/// `EFS_TESTS_NFS_RIG`: the program that drives the virtual machines.
pub fn nfs_rig() -> Option<PathBuf> {
    env::var_os("EFS_TESTS_NFS_RIG").map(PathBuf::from)
}

/// `EFS_TESTS_SCREENSHOTS`: the directory for pictures.
pub fn screenshots() -> Option<PathBuf> {
    env::var_os("EFS_TESTS_SCREENSHOTS").map(PathBuf::from)
}

fn text(name: &str) -> Option<String> {
    match env::var(name) {
        Ok(text) => Some(text),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(text)) => panic!("{name} is not text: {}", text.display()),
    }
}
