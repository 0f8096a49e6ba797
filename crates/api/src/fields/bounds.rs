//! Bounds that fields of several resources have in common, in characters.

/// What people call something.
pub(crate) const NAME_CHARS_MAX: usize = 200;
/// A short word of the client's: a type, a strategy, an origin.
pub(crate) const LABEL_CHARS_MAX: usize = 200;
/// What something is about.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 10_000;
/// The decentralised identifier of an agent.
pub(crate) const DID_CHARS_MAX: usize = 100;
