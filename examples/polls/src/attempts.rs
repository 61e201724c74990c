//! How often somebody may try to sign in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::accounts::Account;
use crate::invocation::ClientAddress;

/// So many wrong passwords ..
const ATTEMPTS: u32 = 5;
/// .. in so long.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Beyond that the oldest are forgotten: memory is not for strangers to fill.
const REMEMBERED: usize = 10_000;

/// Attempts to sign in, by network and account: who may sign in as `demo` does not get another five
/// guesses at `admin` by it.
///
/// Each process counts for itself. On Lambda that is one sandbox of several: the template limits how
/// many there are.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<Key, Window>>);

type Key = (Option<IpAddr>, Option<Account>);

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    count: u32,
}

impl Attempts {
    /// Counts an attempt, before its password is looked at.
    ///
    /// # Errors
    /// If there were too many: for how long there may be no other.
    pub(crate) fn begin(
        &self,
        client: ClientAddress,
        account: Option<Account>,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |window: &Window| now.duration_since(window.since) >= WINDOW;
        windows.retain(|_, window| !is_over(window));
        if windows.len() >= REMEMBERED
            && let Some(oldest) = windows.iter().min_by_key(|(_, window)| window.since)
        {
            let oldest = *oldest.0;
            windows.remove(&oldest);
        }
        let first = Window {
            since: now,
            count: 0,
        };
        let window = windows.entry((network(client), account)).or_insert(first);
        if window.count >= ATTEMPTS {
            return Err(WINDOW - now.duration_since(window.since));
        }
        window.count += 1;
        Ok(())
    }

    /// Forgets the attempts of somebody who knew the password.
    pub(crate) fn succeeded(&self, client: ClientAddress, account: Account) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        windows.remove(&(network(client), Some(account)));
    }
}

/// One customer has 2^64 addresses of IPv6.
fn network(client: ClientAddress) -> Option<IpAddr> {
    client.0.map(|address| match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientAddress {
        ClientAddress(Some(address.parse().expect("an address")))
    }

    #[test]
    fn the_sixth_attempt_is_refused_until_the_window_is_over() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let try_at = |now| attempts.begin(client("192.0.2.1"), Some(Account::Admin), now);
        for _ in 0..ATTEMPTS {
            assert_eq!(try_at(now), Ok(()));
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(try_at(later), Err(WINDOW - Duration::from_secs(60)));
        assert_eq!(try_at(now + WINDOW), Ok(()));
    }

    #[test]
    fn another_network_and_another_account_are_counted_apart() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..ATTEMPTS {
            let _ = attempts.begin(client("2001:db8::1"), Some(Account::Admin), now);
        }
        let refused = |address, account| attempts.begin(client(address), account, now).is_err();
        assert!(
            refused("2001:db8::2", Some(Account::Admin)),
            "the same network"
        );
        assert!(!refused("2001:db8:0:1::1", Some(Account::Admin)));
        assert!(!refused("2001:db8::1", Some(Account::Demo)));
    }

    #[test]
    fn signing_in_as_demo_gives_no_further_guesses_at_admin() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let me = client("192.0.2.1");
        for _ in 0..ATTEMPTS {
            let _ = attempts.begin(me, Some(Account::Admin), now);
        }
        attempts.succeeded(me, Account::Demo);
        assert!(attempts.begin(me, Some(Account::Admin), now).is_err());
        attempts.succeeded(me, Account::Admin);
        assert!(attempts.begin(me, Some(Account::Admin), now).is_ok());
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..REMEMBERED as u32 + 10 {
            let address = IpAddr::V4(number.into());
            let _ = attempts.begin(ClientAddress(Some(address)), None, now);
        }
        assert_eq!(attempts.0.lock().expect("no panic").len(), REMEMBERED);
    }
}
