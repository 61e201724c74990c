//! The program `efs-sqlite`, built with this package so that its tests can run it: cargo does not
//! build the programs of a dependency.

use std::process::ExitCode;

fn main() -> ExitCode {
    efs_sqlite::main()
}
