//! A lock client by itself, in a plain thread or inside a tokio runtime.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diesel_sqlite_efs::{Lease, LockClient, LockError};
use tokio::runtime;

use crate::Options;
use crate::console::{Answer, Console, Failure};

pub(crate) fn serve(table: String, options: &Options, console: &mut Console) {
    let mut builder = (LockClient::builder().lock_table(table)).clock(options.clock());
    if let Some(lease) = options.seconds("lease") {
        builder = builder.lock_expiration(lease);
    }
    if let Some(max_hold) = options.seconds("max-hold") {
        builder = builder.lock_max_hold(max_hold);
    }
    if let Some(holder) = options.get("holder") {
        builder = builder.lock_holder(holder);
    }
    let client = builder.build().expect("options that a client accepts");
    let mut runtime = match options.get("runtime") {
        None => return obey(client, console),
        Some("multi-thread") => runtime::Builder::new_multi_thread(),
        Some(_) => runtime::Builder::new_current_thread(),
    };
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(async { obey(client, console) }),
        Err(error) => console.answer(Err(Failure::other(error))),
    }
}

fn obey(client: LockClient, console: &mut Console) {
    console.answer(Ok("open".to_owned()));
    let mut leases = HashMap::new();
    while let Some(command) = console.next() {
        let words: Vec<_> = command.split(' ').collect();
        let answer = run(&client, &mut leases, &words);
        console.answer(answer);
    }
}

fn run(client: &LockClient, leases: &mut HashMap<String, Lease>, words: &[&str]) -> Answer {
    match *words {
        ["try-acquire", key] => match client.try_acquire(key).map_err(failure)? {
            Some(lease) => Ok(keep(leases, lease)),
            None => Ok("refused".to_owned()),
        },
        ["acquire", key, seconds] => {
            let timeout = Duration::from_secs_f64(seconds.parse().map_err(Failure::other)?);
            let lease = client.acquire(key, timeout).map_err(failure)?;
            Ok(keep(leases, lease))
        }
        ["renew", key] => {
            let lease = held(leases.get(key))?;
            lease.renew().map_err(failure).map(|()| String::new())
        }
        ["is-valid", key] => Ok(held(leases.get(key))?.is_valid().to_string()),
        // Waits for the lease's end, as its holder sees it.
        ["outlive", key, seconds] => {
            let timeout = Duration::from_secs_f64(seconds.parse().map_err(Failure::other)?);
            outlive(held(leases.get(key))?, timeout)
        }
        ["release", key] => {
            let lease = held(leases.remove(key))?;
            lease.release().map_err(failure).map(|()| String::new())
        }
        ["drop", key] => {
            drop(held(leases.remove(key))?);
            Ok(String::new())
        }
        ["contend", key, threads, times] => {
            let threads = threads.parse().map_err(Failure::other)?;
            contend(client, key, threads, times.parse().map_err(Failure::other)?)
        }
        ["stats"] => Ok(format!("{:?}", client.stats())),
        _ => Err(Failure::other(format!("unknown command {words:?}"))),
    }
}

fn keep(leases: &mut HashMap<String, Lease>, lease: Lease) -> String {
    let lock_id = lease.lock_id().to_owned();
    leases.insert(lease.key().to_owned(), lease);
    lock_id
}

fn held<T>(lease: Option<T>) -> Result<T, Failure> {
    lease.ok_or_else(|| Failure::other("no such lease"))
}

fn outlive(lease: &Lease, timeout: Duration) -> Answer {
    let began = Instant::now();
    while lease.is_valid() {
        if began.elapsed() > timeout {
            return Err(Failure::other("the lease is still valid"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(began.elapsed().as_millis().to_string())
}

/// As many threads as that acquire and release the lease so often; answers how many times two of
/// them held it at once.
fn contend(client: &LockClient, key: &str, threads: usize, times: usize) -> Answer {
    const PATIENCE: Duration = Duration::from_secs(30);
    let (holders, overlaps) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let contender = || -> Result<(), LockError> {
        for _ in 0..times {
            let lease = client.acquire(key, PATIENCE)?;
            let others = holders.fetch_add(1, Ordering::SeqCst);
            overlaps.fetch_add(others, Ordering::SeqCst);
            thread::yield_now();
            holders.fetch_sub(1, Ordering::SeqCst);
            lease.release()?;
        }
        Ok(())
    };
    thread::scope(|scope| -> Result<(), Failure> {
        let contenders: Vec<_> = (0..threads).map(|_| scope.spawn(contender)).collect();
        for contender in contenders {
            let result = contender.join();
            result
                .map_err(|_| Failure::other("a panic"))?
                .map_err(failure)?;
        }
        Ok(())
    })?;
    Ok(format!("{} overlaps", overlaps.into_inner()))
}

fn failure(error: LockError) -> Failure {
    Failure::from(&error)
}
