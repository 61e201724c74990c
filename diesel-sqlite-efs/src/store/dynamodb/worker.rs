//! A thread with its own tokio runtime, and calls that block until it has done their work.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::panic_message;

/// How much longer than its deadline a call waits for its task, which watches the deadline itself.
/// Only a thread that is stuck in a system call exceeds it.
const GRACE: Duration = Duration::from_secs(2);

/// Runs futures on its own thread, which the first call starts and `drop` ends.
#[derive(Default)]
pub(super) struct Worker {
    thread: Mutex<Option<Running>>,
}

struct Running {
    runtime: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Why there is no result.
pub(super) enum Lost {
    /// The future panicked, or the thread could not be started.
    Panicked(String),
    /// The future neither ended nor panicked before its time was up.
    Silent,
}

impl Worker {
    /// Runs `future` on the thread and blocks until it has ended.
    ///
    /// Works on any thread: it waits on a channel of the standard library, never in a runtime.
    pub(super) fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
        self.runtime()?.spawn(async move {
            let result = poll_fn(|context| {
                match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
                    Ok(poll) => poll.map(Ok),
                    Err(payload) => Poll::Ready(Err(panic_message(payload.as_ref()))),
                }
            });
            // If the caller no longer waits, the result is not needed.
            let _ = sender.send(result.await);
        });
        // In two steps: where the process was frozen past the deadline, both this wait and the
        // task's timers end at the thaw, and the task needs a moment to report it.
        let left = deadline.saturating_duration_since(Instant::now());
        let received = match receiver.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => receiver.recv_timeout(GRACE),
            received => received,
        };
        match received {
            Ok(result) => result.map_err(Lost::Panicked),
            Err(RecvTimeoutError::Timeout) => Err(Lost::Silent),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Lost::Panicked("the client's thread has ended".to_owned()))
            }
        }
    }

    /// The runtime, on a thread that was alive a moment ago.
    fn runtime(&self) -> Result<Handle, Lost> {
        let mut running = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_ref().filter(|r| !r.thread.is_finished()) {
            return Ok(running.runtime.clone());
        }
        let started = start()?;
        Ok(running.insert(started).runtime.clone())
    }
}

fn start() -> Result<Running, Lost> {
    let (stop, stopped) = oneshot::channel();
    let (built, runtime) = mpsc::sync_channel(1);
    let failed = |error| Lost::Panicked(format!("cannot start the client's thread: {error}"));
    let thread = (thread::Builder::new().name("diesel-sqlite-efs".to_owned()))
        .spawn(move || {
            // Built and dropped on this thread: a runtime must not be dropped inside another one.
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(built.send(Err(error))),
            };
            let _ = built.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(stopped);
            // Does not wait for a name resolution in progress.
            runtime.shutdown_background();
        })
        .map_err(failed)?;
    let runtime = match runtime.recv() {
        Ok(built) => built.map_err(failed)?,
        Err(_) => return Err(Lost::Panicked("the client's thread panicked".to_owned())),
    };
    Ok(Running {
        runtime,
        stop,
        thread,
    })
}

impl Drop for Worker {
    fn drop(&mut self) {
        let running = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.take() {
            let _ = running.stop.send(());
            let _ = running.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn a_panic_is_an_error_and_the_next_call_works() {
        let worker = Worker::default();
        let panicked = worker.run(soon(), async { panic!("at the disco") });
        assert!(matches!(panicked, Err::<(), _>(Lost::Panicked(m)) if m == "at the disco"));
        assert!(matches!(worker.run(soon(), async { 7 }), Ok(7)));
    }

    #[test]
    fn a_future_that_never_ends_is_given_up() {
        let worker = Worker::default();
        let lost = worker.run(Instant::now(), std::future::pending::<()>());
        assert!(matches!(lost, Err(Lost::Silent)));
    }

    #[test]
    fn the_thread_starts_late_has_a_name_and_ends_with_the_worker() {
        let worker = Worker::default();
        assert!(worker.thread.lock().unwrap().is_none());
        let name = worker.run(soon(), async {
            thread::current().name().map(str::to_owned)
        });
        assert!(matches!(name, Ok(Some(name)) if name == "diesel-sqlite-efs"));
        let runtime = worker
            .thread
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .runtime
            .clone();
        drop(worker);
        let (sender, receiver) = mpsc::channel::<()>();
        runtime.spawn(async move { sender.send(()) });
        assert!(receiver.recv().is_err(), "a task ran after the end");
    }
}
