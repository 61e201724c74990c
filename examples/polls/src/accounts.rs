//! The two accounts of the portal, and their passwords.

use argon2::Argon2;
use argon2::password_hash::{Error, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

/// Of the password `djangoserverless`, which everybody may know.
const DEMO_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$Hbur09RLu+db0nLiftxOhg$hM546NLyecl575LbnimmpRJclrRkfl/vSgTwPmFpjSI";

/// How many passwords are compared at the same time: each takes 19 MiB.
const AT_ONCE: usize = 2;

/// Who is signed in, which says what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// May look at everything and change nothing.
    Demo,
    Admin,
}

impl Account {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Demo, Self::Admin]
            .into_iter()
            .find(|account| account.name() == name)
    }

    pub(crate) fn may_write(self) -> bool {
        self == Self::Admin
    }
}

/// What passwords are compared with.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// `None`: there is no such account.
    admin_hash: Option<String>,
    at_once: Semaphore,
}

impl Accounts {
    /// With the administrator's password, or its hash. Hashing takes tens of milliseconds.
    pub(crate) fn new(admin_password: Option<&str>) -> Result<Self, Error> {
        let admin_hash = match admin_password {
            Some(hash) if hash.starts_with("$argon2") => {
                argon2::PasswordHash::new(hash)?;
                Some(hash.to_owned())
            }
            Some(password) => Some(hash_password(password)?),
            None => None,
        };
        Ok(Self {
            admin_hash,
            at_once: Semaphore::new(AT_ONCE),
        })
    }

    /// Whether there is an administrator at all.
    pub(crate) fn has_admin(&self) -> bool {
        self.admin_hash.is_some()
    }

    /// The account of this name, if the password is its own.
    pub(crate) async fn verify(&self, name: &str, password: String) -> Option<Account> {
        let account = Account::from_name(name);
        let hash = match account {
            Some(Account::Demo) => Some(DEMO_HASH.to_owned()),
            Some(Account::Admin) => self.admin_hash.clone(),
            None => None,
        };
        // A name that nobody has takes as long, so that it cannot be told from a wrong password.
        let compared = hash.clone().unwrap_or_else(|| DEMO_HASH.to_owned());
        let _permit = self.at_once.acquire().await.ok()?;
        let compare = move || {
            Argon2::default()
                .verify_password(password.as_bytes(), compared.as_str())
                .is_ok()
        };
        let equal = tokio::task::spawn_blocking(compare).await.unwrap_or(false);
        account.filter(|_| equal && hash.is_some())
    }
}

/// The argon2id hash of a password, for `POLLS_ADMIN_PASSWORD`.
///
/// # Errors
/// If the system has no random numbers.
pub fn hash_password(password: &str) -> Result<String, Error> {
    Ok(Argon2::default()
        .hash_password(password.as_bytes())?
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn verified(admin: Option<&str>, name: &str, password: &str) -> Option<Account> {
        let accounts = Accounts::new(admin).expect("hashed");
        accounts.verify(name, password.to_owned()).await
    }

    #[tokio::test]
    async fn each_account_has_its_own_password() {
        let cases = [
            ("demo", "djangoserverless", Some(Account::Demo)),
            ("demo", "secret", None),
            ("admin", "secret", Some(Account::Admin)),
            ("admin", "djangoserverless", None),
            ("nobody", "djangoserverless", None),
            ("admin", "", None),
        ];
        for (name, password, account) in cases {
            assert_eq!(
                verified(Some("secret"), name, password).await,
                account,
                "{name} {password}"
            );
        }
    }

    #[tokio::test]
    async fn without_a_password_there_is_no_administrator() {
        for password in ["", "djangoserverless"] {
            assert_eq!(verified(None, "admin", password).await, None);
        }
    }

    #[tokio::test]
    async fn the_environment_may_hold_the_hash_alone() {
        let hash = hash_password("secret").expect("hashed");
        assert_eq!(
            verified(Some(&hash), "admin", "secret").await,
            Some(Account::Admin)
        );
        assert_eq!(verified(Some(&hash), "admin", &hash).await, None);
        assert!(Accounts::new(Some("$argon2id$cut off")).is_err());
    }
}
