//! Power cuts, worked out offline. The shim `powercut` journals what a server
//! does to its files; [`Journal`] reads that, and [`Replay`] builds the
//! directory that a power cut after any record would have left.
//!
//! **What is assumed of the disk.** Data is durable from the successful end of
//! an fsync or fdatasync of its file, as far as it was written before that
//! began. A name (a creation, rename, link or removal) is durable from the end
//! of an fsync of its directory or, as on ext4, of the file that it names;
//! names that depend on it, being older and of the same path or leading to it,
//! become durable with it. Everything else may be lost or may have reached the
//! disk: [`Unsynced`] chooses. Acknowledgements are journalled before they
//! are handed to the socket, so a cut after one is a cut at which a client may
//! hold it.

mod journal;
mod replay;

pub use journal::{Ack, Journal, Operation, Record};
pub use replay::{Replay, Unsynced};
