//! The queue against a reference, with real threads. See `url/properties.rs` for how to
//! repeat a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use proptest::prelude::*;

use super::*;

type Queue = super::LocalQueue<u32>;
type Turn = super::Turn<u32>;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Somebody asks and does not wait.
    Try,
    /// Somebody waits as long as it takes.
    Enter,
    /// Somebody waits for a moment, and has gone on or away before the next event.
    EnterBriefly,
    /// Whoever has the turn gives it back.
    Leave,
}

/// The line as it should be: who has the turn, who waits, in order.
#[derive(Debug, Default)]
struct Reference {
    holder: Option<u32>,
    waiting: VecDeque<u32>,
}

/// Waiters as threads: each says when it has its turn, and keeps it until it is told to leave.
struct Threads {
    queue: Arc<Queue>,
    entered: (Sender<u32>, Receiver<u32>),
    leave: BTreeMap<u32, (Sender<()>, JoinHandle<()>)>,
}

impl Threads {
    fn enter(&mut self, who: u32) {
        let (leave, told) = mpsc::channel();
        let (queue, entered) = (self.queue.clone(), self.entered.0.clone());
        let thread = thread::spawn(move || {
            let turn = queue.enter(LONG).expect("a turn in time");
            entered.send(who).expect("the test listens");
            told.recv().expect("the test goes on");
            drop(turn);
        });
        self.leave.insert(who, (leave, thread));
    }

    fn leave(&mut self, who: u32) {
        let (leave, thread) = self.leave.remove(&who).expect("a thread");
        leave.send(()).expect("it waits");
        thread.join().expect("no panic");
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => Just(Event::Try),
        4 => Just(Event::Enter),
        2 => Just(Event::EnterBriefly),
        4 => Just(Event::Leave),
    ];
    prop::collection::vec(event, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn turns_go_in_order_whoever_gives_up(events in events()) {
        let queue = Arc::new(Queue::default());
        let mut threads = Threads {
            queue: queue.clone(),
            entered: mpsc::channel(),
            leave: BTreeMap::new(),
        };
        let mut line = Reference::default();
        // A turn that was taken without waiting has no thread.
        let mut taken: Option<Turn> = None;
        for (who, event) in (0_u32..).zip(events) {
            match event {
                Event::Try => {
                    let turn = queue.try_enter();
                    prop_assert_eq!(turn.is_some(), line.holder.is_none(), "{:?}", line);
                    if let Some(turn) = turn {
                        taken = Some(turn);
                        line.holder = Some(who);
                    }
                }
                Event::Enter => {
                    threads.enter(who);
                    if line.holder.is_none() {
                        prop_assert_eq!(threads.entered.1.recv_timeout(LONG), Ok(who));
                        line.holder = Some(who);
                    } else {
                        line.waiting.push_back(who);
                        while queue.waiting() < line.waiting.len() {
                            thread::yield_now();
                        }
                    }
                }
                Event::EnterBriefly => {
                    let turn = queue.enter(Duration::from_millis(1));
                    prop_assert_eq!(turn.is_some(), line.holder.is_none(), "{:?}", line);
                }
                Event::Leave => {
                    let Some(holder) = line.holder.take() else {
                        continue;
                    };
                    if taken.take().is_none() {
                        threads.leave(holder);
                    }
                    line.holder = line.waiting.pop_front();
                    if let Some(next) = line.holder {
                        // The next in line and no other, without anybody's help.
                        prop_assert_eq!(threads.entered.1.recv_timeout(LONG), Ok(next));
                    }
                }
            }
            prop_assert!(threads.entered.1.try_recv().is_err(), "nobody else has a turn");
        }
        drop(taken);
        while let Some(holder) = line.holder.take() {
            if threads.leave.contains_key(&holder) {
                threads.leave(holder);
            }
            line.holder = line.waiting.pop_front();
            if let Some(next) = line.holder {
                prop_assert_eq!(threads.entered.1.recv_timeout(LONG), Ok(next));
            }
        }
        prop_assert!(queue.try_enter().is_some(), "nothing is left in the line");
    }
}

/// Threads that enter, give up and leave as they come; a lost wake-up would keep one waiting.
#[test]
fn in_any_interleaving_one_has_the_turn_and_who_waits_gets_it() {
    const THREADS: u64 = 8;
    // Miri interprets.
    const TIMES: u32 = if cfg!(miri) { 10 } else { 400 };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let queue = Arc::new(Queue::default());
    let (is_taken, turns, given_up) =
        (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let (left, found) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (queue, is_taken, turns, given_up) = (&queue, &is_taken, &turns, &given_up);
            let (left, found) = (&left, &found);
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
            scope.spawn(move || {
                for _ in 0..TIMES {
                    let turn = match random.u32(0..4) {
                        0 => queue.try_enter().map(|turn| (turn, None)),
                        1 => queue.enter(Duration::from_micros(random.u64(0..300))),
                        _ => Some(queue.enter(LONG).expect("a turn in time")),
                    };
                    let Some((turn, what_was_left)) = turn else {
                        given_up.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    assert!(!is_taken.swap(true, Ordering::SeqCst), "two at once");
                    match random.u32(0..3) {
                        0 => thread::yield_now(),
                        1 => thread::sleep(Duration::from_micros(random.u64(0..100))),
                        _ => {}
                    }
                    turns.fetch_add(1, Ordering::SeqCst);
                    found.fetch_add(what_was_left.unwrap_or(0), Ordering::SeqCst);
                    is_taken.store(false, Ordering::SeqCst);
                    let something = random.u32(1..100);
                    if random.bool() && turn.hand_off(something).is_ok() {
                        left.fetch_add(something, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let (turns, given_up) = (turns.into_inner(), given_up.into_inner());
    println!("{turns} turns, given up {given_up} times");
    assert_eq!(u64::from(turns + given_up), THREADS * u64::from(TIMES));
    assert!(turns > 0 && given_up > 0);
    assert!(queue.try_enter().is_some(), "nothing is left in the line");
    let (left, found) = (left.into_inner(), found.into_inner());
    assert_eq!(found, left, "what is left is found, once");
    assert!(left > 0);
}
