//! The knowledge graph's rules: what a text says ([`extract`]), how names are
//! compared ([`names`], [`gazetteer`]), how facts follow each other in time
//! ([`timeline`]), what a model may add to that ([`structured`]), and which of what was
//! found answers a question best ([`rank`]).
//!
//! Nothing here does I/O, tells the time or makes ids: texts, moments and what is
//! known come in as values, and the engine stores what comes out.

pub mod extract;
pub mod gazetteer;
pub mod names;
pub mod rank;
pub mod structured;
pub mod timeline;
pub mod wording;
