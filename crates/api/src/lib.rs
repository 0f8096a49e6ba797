//! The HTTP surfaces.

pub mod fields;
