//! What the tests of several crates share: things that stand in for the world
//! around Agentry. A development dependency only.

pub mod postgres;
