//! Who is next inside this process: connections wait here, in order, before one asks the store.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The waiting line for one key of one store: see [`Shared::queue`](super::shared::Shared::queue).
#[derive(Debug, Default)]
pub(crate) struct Queue {
    line: Mutex<Line>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    taken: bool,
    next_ticket: u64,
    waiting: VecDeque<u64>,
}

/// The right to ask the store for the lease; the next in line has it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Arc<Queue>,
}

impl Queue {
    /// A turn if it is free and nobody waits for it.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Turn> {
        let mut line = self.line();
        if line.taken || !line.waiting.is_empty() {
            return None;
        }
        line.taken = true;
        Some(Turn {
            queue: self.clone(),
        })
    }

    /// Waits in line for a turn, at most for `limit`.
    pub(crate) fn enter(self: &Arc<Self>, limit: Duration) -> Option<Turn> {
        let until = Instant::now() + limit;
        let mut line = self.line();
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.waiting.push_back(ticket);
        while line.taken || line.waiting.front() != Some(&ticket) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                line.waiting.retain(|waiting| *waiting != ticket);
                // Whoever stood behind us may be first now.
                self.moved.notify_all();
                return None;
            }
            line = (self.moved.wait_timeout(line, left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        line.waiting.pop_front();
        line.taken = true;
        Some(Turn {
            queue: self.clone(),
        })
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.line().taken = false;
        self.queue.moved.notify_all();
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    fn waiting(queue: &Queue) -> usize {
        queue.line().waiting.len()
    }

    #[test]
    fn turns_are_given_in_the_order_of_asking() {
        let queue = Arc::new(Queue::default());
        let first = queue.try_enter().unwrap();
        let (served, order) = mpsc::channel();
        let threads: Vec<_> = (0..5)
            .map(|number| {
                let (line, served) = (queue.clone(), served.clone());
                let thread = thread::spawn(move || {
                    let _turn = line.enter(LONG).unwrap();
                    served.send(number).unwrap();
                });
                while waiting(&queue) <= number {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        assert!(queue.try_enter().is_none(), "nobody may jump the line");
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn giving_up_leaves_no_gap_in_the_line() {
        let queue = Arc::new(Queue::default());
        let turn = queue.try_enter().unwrap();
        assert!(queue.enter(Duration::from_millis(5)).is_none());
        assert_eq!(waiting(&queue), 0);
        drop(turn);
        assert!(queue.try_enter().is_some());
    }
}
