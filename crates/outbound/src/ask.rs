//! Asking: a request without a body, sent once.

use http::{HeaderMap, Method};
use reqwest::Url;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::post::Client;
use crate::reply::{Limits, Reply};

/// A request without a body, and how long its answer may take.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it does.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Its headers. Mark secret values as sensitive.
    pub headers: HeaderMap,
    /// When the whole call, the reading of its answer included, has to be over.
    pub deadline: Instant,
}

impl Client {
    /// Sends the request and waits for the answer's status and headers.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, Failure> {
        self.check(&ask.url).map_err(Failure::Refused)?;
        let limits = Limits {
            deadline: ask.deadline,
            idle_timeout: self.options.idle_timeout(),
            bytes_max: self.options.response_bytes_max,
        };
        let first_byte_timeout = self.options.first_byte_timeout();
        let first_byte_ends = Instant::now() + first_byte_timeout;
        let request = self.http.request(ask.method, ask.url).headers(ask.headers);
        match tokio::time::timeout_at(first_byte_ends.min(ask.deadline), request.send()).await {
            Ok(Ok(response)) => Ok(Reply::new(response, limits)),
            Ok(Err(error)) => Err(Failure::from_reqwest(error, self.options.connect_timeout())),
            Err(_) if first_byte_ends < limits.deadline => {
                Err(Failure::FirstByteTimeout { after: first_byte_timeout })
            }
            Err(_) => Err(Failure::Deadline),
        }
    }
}
