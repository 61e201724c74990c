//! The DynamoDB emulator: built when it is first needed, run as a process, ended with this one.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use crate::process::{NoLine, Worker};
use crate::target;

/// How long the emulator may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A DynamoDB emulator with an empty memory, on a loopback port of its own.
///
/// It ends when this is dropped, and also when this process ends, however that comes: its standard
/// input, a pipe from here, is closed then.
#[derive(Debug)]
pub struct Emulator {
    worker: Worker,
    endpoint: String,
}

/// Why there is no emulator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The directory for the build, or the lock in it, cannot be had.
    #[error("cannot prepare {path} for building the DynamoDB emulator")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `cargo` cannot be started.
    #[error("cannot run `{cargo}` to build the DynamoDB emulator")]
    Cargo {
        /// The program that was tried.
        cargo: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The emulator does not build.
    #[error("cannot build the DynamoDB emulator:\n{output}")]
    Build {
        /// What cargo wrote to standard error.
        output: String,
    },
    /// The emulator cannot be started.
    #[error("cannot start the DynamoDB emulator {program}")]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The emulator was started and does not listen.
    #[error("the DynamoDB emulator does not say where it listens")]
    Silent(#[source] NoLine),
    /// The emulator's first line is another than agreed.
    #[error("the DynamoDB emulator says `{0}` instead of where it listens")]
    Garbled(String),
}

impl Emulator {
    /// Builds the emulator, unless that was done before, and starts it.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start() -> Result<Self, StartError> {
        let program = build()?;
        let worker = match Worker::spawn(&mut Command::new(&program)) {
            Ok(worker) => worker,
            Err(source) => return Err(StartError::Spawn { program, source }),
        };
        let line = worker.line(START_TIMEOUT).map_err(StartError::Silent)?;
        match line.strip_prefix("listening on ") {
            Some(endpoint) => Ok(Self {
                endpoint: endpoint.to_owned(),
                worker,
            }),
            None => Err(StartError::Garbled(line)),
        }
    }

    /// The one emulator that all tests of this process share; they keep apart by their tables.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Emulator> = OnceLock::new();
        SHARED.get_or_init(|| match Self::start() {
            Ok(emulator) => emulator,
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        })
    }

    /// The URL at which it answers.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.worker.id()
    }
}

/// Lets cargo bring the emulator's binary up to date, and returns where it is.
fn build() -> Result<PathBuf, StartError> {
    let target = target::directory().join("emulator");
    let _building = target::lock(&target).map_err(|source| StartError::Directory {
        path: target.clone(),
        source,
    })?;
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let started = cargo_build(&cargo, &target).spawn();
    let mut child = started.map_err(|source| StartError::Cargo {
        cargo: cargo.clone(),
        source,
    })?;
    let stderr = child.stderr.take();
    let messages = thread::spawn(move || stderr.map(announce_and_collect).unwrap_or_default());
    let program = child.stdout.take().and_then(find_program);
    let status = child.wait();
    // The thread ends with cargo's output and has nothing to panic about.
    let output = messages.join().unwrap_or_default();
    match (status, program) {
        (Ok(status), Some(program)) if status.success() => Ok(program),
        (Ok(_), _) => Err(StartError::Build { output }),
        (Err(source), _) => Err(StartError::Cargo { cargo, source }),
    }
}

fn cargo_build(cargo: &Path, target: &Path) -> Command {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator/Cargo.toml");
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--locked",
            "--message-format=json-render-diagnostics",
        ])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // An outer cargo's settings (flags, wrappers, profiles) would build the emulator anew each
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
fn announce_and_collect(stderr: impl Read) -> String {
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
            let _ = writeln!(
                io::stderr(),
                "building the DynamoDB emulator (once, about a minute) ..."
            );
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
