//! Processes that wait for one lock, in virtual time: a simulation of the policy by which
//! diesel-sqlite-efs asks for its lease, for fleets and times that no test could run.
//!
//! The policy is not modelled but included: `lease/pace.rs` and `lease/backoff.rs` of the crate, the
//! latter alone as the policy that was replaced. Beside them stands that of the Python package.
//! Everything is drawn from one seed, so that a run repeats itself exactly.

// What the crate needs of its files beyond what a waiter here does.
#[allow(dead_code)]
#[path = "../../../diesel-sqlite-efs/src/lease/backoff.rs"]
mod backoff;
#[path = "../../../diesel-sqlite-efs/src/lease/pace.rs"]
mod pace;

mod outcome;
mod policy;
pub mod report;
mod scene;
mod simulation;

pub use self::outcome::Outcome;
pub use self::policy::Policy;
pub use self::scene::{Arrivals, Scene};
pub use self::simulation::run;
