//! Where in a tokio application the work is done.

use tokio::runtime::{Builder, Runtime};
use tokio::task::{block_in_place, spawn_blocking};

use crate::console::Failure;

/// The kinds of threads on which an application may use a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// No runtime.
    Outside,
    /// The only thread of a runtime, inside `block_on`.
    CurrentThread,
    /// Inside `block_on` of a runtime with worker threads.
    MultiThread,
    /// A worker thread, as in any task.
    WorkerThread,
    /// A worker thread that has said that it will block.
    Blocking,
    /// A thread for blocking work.
    SpawnBlocking,
}

impl Place {
    pub(crate) fn named(name: Option<&str>) -> Result<Self, Failure> {
        match name {
            None => Ok(Self::Outside),
            Some("current-thread") => Ok(Self::CurrentThread),
            Some("multi-thread") => Ok(Self::MultiThread),
            Some("worker-thread") => Ok(Self::WorkerThread),
            Some("block-in-place") => Ok(Self::Blocking),
            Some("spawn-blocking") => Ok(Self::SpawnBlocking),
            Some(other) => Err(Failure::other(format!("unknown runtime `{other}`"))),
        }
    }

    /// Does the work there; a panic in it is one here.
    pub(crate) fn run(self, work: impl FnOnce() + Send + 'static) {
        let result = match self {
            Self::Outside => return work(),
            Self::CurrentThread => {
                return built(Builder::new_current_thread()).block_on(async { work() });
            }
            Self::MultiThread => return multi_thread().block_on(async { work() }),
            Self::WorkerThread => {
                let runtime = multi_thread();
                runtime.block_on(runtime.spawn(async { work() }))
            }
            Self::Blocking => {
                let runtime = multi_thread();
                runtime.block_on(runtime.spawn(async { block_in_place(work) }))
            }
            Self::SpawnBlocking => {
                built(Builder::new_current_thread()).block_on(async { spawn_blocking(work).await })
            }
        };
        result.expect("the work does not panic");
    }
}

/// One worker thread: if that is blocked, nothing else gets on.
fn multi_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    built(builder)
}

fn built(mut builder: Builder) -> Runtime {
    builder.enable_all().build().expect("a runtime")
}
