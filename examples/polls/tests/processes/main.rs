//! The program itself, as processes: as functions that Lambda runs, and as servers under load.

mod fixture;
mod functions;
mod load;
