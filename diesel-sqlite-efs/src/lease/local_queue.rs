//! The order of those who wait inside this process, before one of them asks the store.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The queue for one key of one store. The one whose turn it is may hand something of type `T` off to
/// the next.
#[derive(Debug)]
pub(crate) struct LocalQueue<T> {
    line: Mutex<Line<T>>,
}

#[derive(Debug)]
struct Line<T> {
    taken: bool,
    /// Each with what wakes it alone.
    waiting: VecDeque<Arc<Condvar>>,
    /// For the first of them, which has been woken.
    handed_off: Option<T>,
}

/// The right to ask the store for the lease; the next in line has it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    queue: Arc<LocalQueue<T>>,
    is_over: bool,
}

impl<T> Default for LocalQueue<T> {
    fn default() -> Self {
        let line = Line {
            taken: false,
            waiting: VecDeque::new(),
            handed_off: None,
        };
        Self {
            line: Mutex::new(line),
        }
    }
}

impl<T> LocalQueue<T> {
    /// A turn if it is free and nobody waits for it.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Turn<T>> {
        let mut line = self.line();
        if line.taken || !line.waiting.is_empty() {
            return None;
        }
        line.taken = true;
        Some(self.turn())
    }

    /// Waits in line for a turn, at most for `limit`. With it comes what the one before has handed off.
    pub(crate) fn enter(self: &Arc<Self>, limit: Duration) -> Option<(Turn<T>, Option<T>)> {
        let until = Instant::now() + limit;
        let woken = Arc::new(Condvar::new());
        let is_ours = |waiting: &Arc<Condvar>| Arc::ptr_eq(waiting, &woken);
        let mut line = self.line();
        line.waiting.push_back(woken.clone());
        while line.taken || !line.waiting.front().is_some_and(is_ours) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                line.waiting.retain(|waiting| !is_ours(waiting));
                return None;
            }
            line = (woken.wait_timeout(line, left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        line.waiting.pop_front();
        line.taken = true;
        Some((self.turn(), line.handed_off.take()))
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.line().waiting.len()
    }

    fn turn(self: &Arc<Self>) -> Turn<T> {
        Turn {
            queue: self.clone(),
            is_over: false,
        }
    }

    fn line(&self) -> MutexGuard<'_, Line<T>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Line<T> {
    /// Whoever is first has the turn, and is woken; one who gives up at that moment takes it.
    fn call_next(&mut self) {
        self.taken = false;
        if let Some(first) = self.waiting.front() {
            first.notify_one();
        }
    }
}

impl<T> Turn<T> {
    /// Ends the turn and hands something off to the next in the queue; both come back if nobody waits.
    pub(crate) fn hand_off(mut self, handed_off: T) -> Result<(), (Self, T)> {
        let mut line = self.queue.line();
        if line.waiting.is_empty() {
            drop(line);
            return Err((self, handed_off));
        }
        line.handed_off = Some(handed_off);
        line.call_next();
        drop(line);
        self.is_over = true;
        Ok(())
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.queue.line().call_next();
        }
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

    #[test]
    fn turns_are_given_in_the_order_of_asking() {
        let queue = Arc::new(LocalQueue::<()>::default());
        let first = queue.try_enter().unwrap();
        let (served, order) = mpsc::channel();
        let threads: Vec<_> = (0..5)
            .map(|number| {
                let (line, served) = (queue.clone(), served.clone());
                let thread = thread::spawn(move || {
                    let _turn = line.enter(LONG).unwrap();
                    served.send(number).unwrap();
                });
                while queue.waiting() <= number {
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
        let queue = Arc::new(LocalQueue::<()>::default());
        let turn = queue.try_enter().unwrap();
        assert!(queue.enter(Duration::from_millis(5)).is_none());
        assert_eq!(queue.waiting(), 0);
        drop(turn);
        assert!(queue.try_enter().is_some());
    }

    #[test]
    fn what_is_handed_off_goes_to_the_next_in_the_queue_alone() {
        let queue = Arc::new(LocalQueue::default());
        let turn = queue.try_enter().unwrap();
        let (turn, left) = turn.hand_off("nobody waits").unwrap_err();
        assert_eq!(left, "nobody waits");
        assert!(queue.try_enter().is_none(), "the turn is kept");
        let next = thread::spawn({
            let queue = queue.clone();
            move || queue.enter(LONG).map(|(_, left)| left)
        });
        while queue.waiting() == 0 {
            thread::yield_now();
        }
        turn.hand_off("for the next").unwrap();
        assert_eq!(next.join().unwrap(), Some(Some("for the next")));
        let (_turn, left) = queue.enter(LONG).unwrap();
        assert_eq!(left, None);
    }
}
