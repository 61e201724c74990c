//! Building programs that tests run and that cargo does not build for them.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;
use thiserror::Error;

use crate::target;

/// Why a program could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The directory for the build, or the lock in it, cannot be had.
    #[error("cannot prepare {path} for building a program")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `cargo` cannot be started.
    #[error("cannot run `{cargo}` to build a program")]
    Cargo {
        /// The program that was tried.
        cargo: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program does not build.
    #[error("a program cannot be built:\n{output}")]
    Failed {
        /// What cargo wrote to standard error.
        output: String,
    },
}

/// Lets cargo bring the program `counted`, whose instructions are counted, up to date; returns where
/// it is.
///
/// # Errors
/// [`BuildError`]
pub fn counted() -> Result<PathBuf, BuildError> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("counted/Cargo.toml");
    program(
        &manifest,
        &["--profile=counted"],
        &target::directory(),
        "building what instructions are counted of (once, a few minutes) ...",
    )
}

/// Lets cargo bring a program up to date below `target`, and returns where it is. The announcement is
/// made if there is something to build.
pub(crate) fn program(
    manifest: &Path,
    options: &[&str],
    target: &Path,
    announcement: &'static str,
) -> Result<PathBuf, BuildError> {
    let _building = target::lock(target).map_err(|source| BuildError::Directory {
        path: target.to_owned(),
        source,
    })?;
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let started = command(&cargo, manifest, options, target).spawn();
    let mut child = started.map_err(|source| BuildError::Cargo {
        cargo: cargo.clone(),
        source,
    })?;
    let stderr = child.stderr.take();
    let messages = thread::spawn(move || {
        stderr.map_or_else(String::new, |stderr| {
            announce_and_collect(stderr, announcement)
        })
    });
    let program = child.stdout.take().and_then(find_program);
    let status = child.wait();
    // The thread ends with cargo's output and has nothing to panic about.
    let output = messages.join().unwrap_or_default();
    match (status, program) {
        (Ok(status), Some(program)) if status.success() => Ok(program),
        (Ok(_), _) => Err(BuildError::Failed { output }),
        (Err(source), _) => Err(BuildError::Cargo { cargo, source }),
    }
}

fn command(cargo: &Path, manifest: &Path, options: &[&str], target: &Path) -> Command {
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--locked",
            "--message-format=json-render-diagnostics",
        ])
        .args(options)
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // An outer cargo's settings (flags, wrappers, profiles) would build the program anew each
    // time they change. How to reach the registry stays.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let flags = ["RUSTFLAGS", "RUSTC", "CFLAGS"]
            .iter()
            .any(|flags| name.starts_with(flags));
        let cargo = name.starts_with("CARGO_")
            && !["HOME", "HTTP_", "NET_", "REGISTR", "SOURCE_"]
                .iter()
                .any(|kept| name["CARGO_".len()..].starts_with(kept));
        if flags || cargo {
            command.env_remove(&*name);
        }
    }
    command
}

/// Says so once if cargo finds something to build; returns all that it said.
fn announce_and_collect(stderr: impl Read, announcement: &str) -> String {
    let mut output = String::new();
    let mut announced = false;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let builds = ["Updating", "Downloading", "Compiling"]
            .iter()
            .any(|word| line.trim_start().starts_with(word));
        if builds && !announced {
            announced = true;
            // Not `eprintln!`, which the test harness would keep to itself. Nobody to tell is no
            // reason not to build.
            let _ = writeln!(io::stderr(), "{announcement}");
        }
        output.push_str(&line);
        output.push('\n');
    }
    output
}

/// The binary's path, from cargo's messages.
fn find_program(stdout: impl Read) -> Option<PathBuf> {
    // All of it is read, found or not: cargo must not find its output closed.
    BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .last()
}
