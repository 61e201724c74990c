//! Worker processes that end with the test, and waiting for conditions with a deadline.

use std::env;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process, prlimit, waitid,
};
use thiserror::Error;

/// How often a condition is looked at that nobody announces.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A child process that is killed and awaited when this is dropped.
///
/// Its standard input is a pipe from this process, so that it learns of this process's end,
/// however that comes. It runs in a process group of its own: Ctrl-C in a terminal reaches this
/// process alone, which then ends its workers in order. Standard error is inherited.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    /// In a mutex so that a worker can be shared between threads.
    lines: Mutex<Receiver<String>>,
}

/// Why [`Worker::line`] returned none.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum NoLine {
    /// The worker wrote nothing in time.
    #[error("no line within {0:?}")]
    TimedOut(Duration),
    /// The worker closed its standard output: it has ended or is about to.
    #[error("the worker closed its standard output")]
    Closed,
}

impl Worker {
    /// Starts `command`; its lines are to be read with [`line`](Self::line).
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let (sender, lines) = mpsc::channel();
        let mut worker = Self::spawn_watched(command, move |line| {
            if let Some(line) = line {
                // Refused only after the worker was dropped; then nobody wants the line.
                let _ = sender.send(line);
            }
        })?;
        worker.lines = Mutex::new(lines);
        Ok(worker)
    }

    /// Starts `command` and hands each line of its standard output to `watch`, on a thread of its
    /// own, then `None` when the output is closed. [`line`](Self::line) gets none of them.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn_watched(
        command: &mut Command,
        mut watch: impl FnMut(Option<String>) + Send + 'static,
    ) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        thread::Builder::new()
            .name(format!("stdout of {}", child.id()))
            .spawn(move || {
                for line in stdout
                    .into_iter()
                    .flat_map(|out| BufReader::new(out).lines())
                {
                    match line {
                        Ok(line) => watch(Some(line)),
                        Err(error) => {
                            eprintln!("a worker's standard output: {error}");
                            break;
                        }
                    }
                }
                watch(None);
            })?;
        let (_, no_lines) = mpsc::channel();
        Ok(Self {
            child,
            stdin,
            lines: Mutex::new(no_lines),
        })
    }

    /// The next line that the worker writes to its standard output.
    ///
    /// # Errors
    /// [`NoLine`] if it does not come in time.
    pub fn line(&self, within: Duration) -> Result<String, NoLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoLine::TimedOut(within),
            RecvTimeoutError::Disconnected => NoLine::Closed,
        })
    }

    /// Skips the worker's lines up to the first that `wanted` accepts, and returns that one.
    ///
    /// # Errors
    /// [`NoLine`] if it does not come in time.
    pub fn line_where(
        &self,
        within: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<String, NoLine> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.line(left).map_err(|error| match error {
                NoLine::TimedOut(_) => NoLine::TimedOut(within),
                NoLine::Closed => NoLine::Closed,
            })?;
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    /// Writes a line to the worker's standard input.
    ///
    /// # Errors
    /// If the worker has ended, or its input was closed.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Closes the worker's standard input, by which workers are asked to end.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the worker has ended by itself.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if it does not end in time; it goes on running then.
    pub fn wait(&mut self, within: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("process {} still runs after {within:?}", self.id()),
                ));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends the worker at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Stops the worker where it stands (SIGSTOP) and waits until it does stand.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        // NOWAIT leaves the process to be awaited by its owner, should it have ended instead.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options)? {
            Some(status) if status.stopped() => Ok(()),
            _ => Err(io::Error::other(format!("process {} has ended", self.id()))),
        }
    }

    /// Lets it have no more memory than it has now: what it asks for from here on is refused.
    ///
    /// # Errors
    /// If it has ended and was awaited.
    pub fn starve(&self) -> io::Result<()> {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::As, none)?;
        Ok(())
    }

    /// Lets a paused worker go on (SIGCONT).
    ///
    /// # Errors
    /// If it has ended and was awaited.
    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }
}

impl Drop for Worker {
    /// Kills the worker if it still runs, and waits until it is gone.
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("cannot end process {}: {error}", self.id());
        }
    }
}

/// A process of this very test program that runs one ignored test, which obeys the test that starts
/// it: for what a whole process shares. `test` is its name with its modules.
///
/// # Panics
/// If the system does not say which program this is.
pub fn ignored_test(test: &str) -> Command {
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(ignored_test_arguments(test));
    command
}

/// What this program is to be given for that.
pub fn ignored_test_arguments(test: &str) -> [&str; 4] {
    ["--exact", test, "--ignored", "--nocapture"]
}

/// Looks at `condition` again and again until it holds.
///
/// # Panics
/// If it does not hold within the time given; `what` tells what was waited for.
#[track_caller]
pub fn wait_until(within: Duration, what: impl fmt::Display, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {within:?} in vain until {what}"
        );
        thread::sleep(POLL_INTERVAL);
    }
}
