//! The load lab: an instrument that loads any HTTP server, records what it
//! sees, and says what the record can and cannot claim. It knows HTTP and
//! nothing of the rest of the house. `docs/lab.md` is its manual.

mod audit;
mod calibrate;
mod command;
mod connection;
mod delivery;
mod dice;
mod drive;
mod expression;
mod hit;
mod http1;
mod http2;
mod ledger;
#[cfg(feature = "terminal")]
mod live;
mod machine;
mod metrics;
pub mod mock;
mod pacing;
mod progress;
mod queue;
mod recorder;
mod report;
mod run_file;
pub mod scenario;
#[cfg(feature = "terminal")]
mod screen;
mod sketch;
mod socket;
mod stress;
mod subscription;
mod summary;
mod target;
mod timers;
mod tokens;
pub mod transport;
pub mod units;
pub mod verdict;
mod worker;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use command::{LabArgs, main};
