//! Processes that wait for one lock, in virtual time: a simulation of the policy by which
//! diesel-sqlite-efs asks for its lease, for fleets and times that no test could run.
//!
//! The policy is not modelled: it is the crate's own code, `lease/wait_policy.rs` and
//! `lease/backoff.rs`, the latter alone as the policy that was replaced. Beside them is that of the
//! Python package.
//! Everything is drawn from one seed, so that a run repeats itself exactly.

mod outcome;
mod policy;
pub mod report;
mod scene;
mod simulation;

pub use self::outcome::Outcome;
pub use self::policy::Policy;
pub use self::scene::{Arrivals, Scene};
pub use self::simulation::run;
