//! What was acknowledged stays: the real binary under power cuts, SIGKILL, a
//! database that is killed, and disks that fail or fill up. Clients keep a
//! ledger of what they asked for and what they were told (`ledger`), a world is
//! what can be read afterwards (`world`), and the two are compared; what no
//! client sees must agree with itself (`invariants`).
//!
//! Tests with `soak` in their name have a long form, which `make soak` runs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod backup;
mod client;
mod disk;
mod home;
mod invariants;
mod kill;
mod ledger;
mod point_in_time;
mod power_cut;
mod runs;
#[expect(dead_code, reason = "the harness of the HTTP tests offers more than these need")]
#[path = "../http/server.rs"]
mod server;
mod world;

/// Whether tests that have a long form shall take it.
fn is_soak() -> bool {
    std::env::var_os("AGENTRY_TEST_SOAK").is_some_and(|value| value == "1")
}

/// One seed for every test, or another one to look further.
fn seed() -> u64 {
    std::env::var("AGENTRY_TEST_SEED").map_or(20_261_121, |seed| seed.parse().unwrap())
}
