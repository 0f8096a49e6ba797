//! The one HTTP client for everything that leaves this process. It promises
//! that no call outlives its deadline, that every wait has a time-out with a
//! name, that no answer grows past a bound, and that a request which may have
//! had an effect is never sent twice. What an answer means is left to callers.

mod ask;
pub mod breaker;
pub mod budget;
mod failure;
mod form;
pub mod guard;
mod options;
mod post;
mod reply;
mod trace;
mod upstream;

pub use ask::Ask;
pub use failure::{Cause, Failure};
pub use form::PostForm;
pub use guard::{Guard, Refused};
pub use options::Options;
pub use post::{Client, PostJson};
pub use reply::Reply;
pub use reqwest::Url;
pub use trace::carry_with;
pub use upstream::{Upstream, UpstreamCounts, Verdict, retry_after};
