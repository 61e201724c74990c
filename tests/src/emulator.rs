//! The DynamoDB emulator: built when it is first needed, run as a process, ended with this one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use thiserror::Error;

use crate::build::{self, BuildError};
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
    /// It cannot be built.
    #[error("cannot build the DynamoDB emulator")]
    Build(#[from] BuildError),
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
fn build() -> Result<PathBuf, BuildError> {
    build::program(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator/Cargo.toml"),
        &[],
        &target::directory().join("emulator"),
        "building the DynamoDB emulator (once, about a minute) ...",
    )
}
