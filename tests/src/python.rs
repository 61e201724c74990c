//! Processes of the Python package django_sqlite_efs, which has the same lock.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::target;

/// A command that runs `python/worker.py`, which speaks as the binary `worker` does; its arguments
/// and settings are to be added.
///
/// # Panics
/// As [`interpreter`].
pub fn worker() -> Command {
    let mut command = interpreter();
    command.arg(scripts().join("worker.py"));
    command
}

/// A command that runs the Python which has the package; the script and its arguments are to be
/// added.
///
/// The package is installed when it is first asked for, into a virtual environment of its own below
/// the target directory.
///
/// # Panics
/// If it cannot be installed, with what the installation said.
pub fn interpreter() -> Command {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    let interpreter = INTERPRETER.get_or_init(|| match install() {
        Ok(interpreter) => interpreter,
        Err(said) => panic!("django_sqlite_efs cannot be installed: {said}"),
    });
    Command::new(interpreter)
}

fn install() -> Result<PathBuf, String> {
    let environment = target::directory().join("python");
    let _installing = target::lock(&environment.with_extension("lock"))
        .map_err(|error| format!("{}: {error}", environment.display()))?;
    let script = scripts().join("install.sh");
    let output = (Command::new(&script).arg(&environment).output())
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if output.status.success() {
        Ok(environment.join("bin/python"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}
