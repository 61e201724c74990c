//! The program `efs-sqlite`; its commands are in the library, where they reach what is not public.

use std::process::ExitCode;

fn main() -> ExitCode {
    diesel_sqlite_efs::cli::main()
}
