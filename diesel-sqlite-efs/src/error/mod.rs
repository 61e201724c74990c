//! The errors of each layer: the store, the lease, the settings.

mod chain;
mod config;
mod connect;
mod lock;
mod problem;
mod store;

use std::error::Error as StdError;

pub use self::chain::error_chain;
pub(crate) use self::chain::panic_message;
pub use self::config::ConfigError;
pub use self::connect::ConnectError;
pub(crate) use self::lock::Utc;
pub use self::lock::{HolderInfo, LockError, LockName};
pub use self::problem::Problem;
pub use self::store::{SharedError, StoreError};

// Errors cross threads, and fit into `Box<dyn Error + Send + Sync>`.
const _: () = {
    const fn is_error<T: StdError + Send + Sync + 'static>() {}
    is_error::<ConfigError>();
    is_error::<ConnectError>();
    is_error::<LockError>();
    is_error::<StoreError>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_remedy_are_apart_and_shown_as_one() {
        let missing = StoreError::TableMissing {
            message: "it is gone; really".to_owned(),
        };
        let problem = missing.problem();
        assert_eq!(
            problem.cause(),
            "the lock table does not exist: it is gone; really"
        );
        let remedy = "create it, or check its name and AWS_REGION";
        assert_eq!(problem.remedy(), Some(remedy));
        assert_eq!(
            missing.to_string(),
            format!("the lock table does not exist: it is gone; really; {remedy}")
        );
        let misconfigured = StoreError::Misconfigured {
            message: Problem::new("no URL").with_remedy("give one"),
        };
        assert_eq!(
            misconfigured.to_string(),
            "DynamoDB is misconfigured: no URL; give one"
        );
        assert_eq!(misconfigured.remedy().as_deref(), Some("give one"));
    }

    #[test]
    fn a_remedy_that_says_what_is_wrong_follows_a_colon() {
        let invalid = ConfigError::InvalidValue {
            setting: "`mode` in the database URL".to_owned(),
            value: "x".to_owned(),
            problem: "give `ro`".to_owned(),
        };
        assert_eq!(
            invalid.to_string(),
            "invalid value `x` for `mode` in the database URL: give `ro`"
        );
        assert_eq!(invalid.remedy().as_deref(), Some("give `ro`"));
    }
}
