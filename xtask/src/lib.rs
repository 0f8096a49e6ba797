//! What the house needs around its code: the surroundings of the tests, the
//! shims that cut power and break disks, and the benches. It promises to stop
//! every process that it starts, however it ends itself; it knows none of
//! Agentry's crates and talks to the server as any client does.

pub mod bench;
pub mod code_graph;
pub mod guarded;
pub mod node;
pub mod packages;
pub mod postgres;
pub mod powercut;
pub mod python;
pub mod shims;
pub mod surroundings;
pub mod workspace;
