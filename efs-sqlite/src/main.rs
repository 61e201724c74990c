//! The program `efs-sqlite`.

use std::process::ExitCode;

fn main() -> ExitCode {
    efs_sqlite::main()
}
