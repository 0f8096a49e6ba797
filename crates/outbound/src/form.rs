//! Posting a form, as those who issue tokens want it; sent once.

use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::post::Client;
use crate::reply::{Limits, Reply};

/// A form, and how long its answer may take.
#[derive(Clone, Debug)]
pub struct PostForm {
    /// Where to.
    pub url: Url,
    /// Headers beside `Content-Type`. Mark secret values as sensitive.
    pub headers: HeaderMap,
    /// The fields, encoded (`application/x-www-form-urlencoded`).
    pub form: String,
    /// When the whole call, the reading of its answer included, has to be over.
    pub deadline: Instant,
}

impl Client {
    /// Sends the form and waits for the answer's status and headers.
    pub async fn post_form(&self, call: PostForm) -> Result<Reply, Failure> {
        self.check(&call.url).map_err(Failure::Refused)?;
        let limits = Limits {
            deadline: call.deadline,
            idle_timeout: self.options.idle_timeout(),
            bytes_max: self.options.response_bytes_max,
        };
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = self
            .http
            .post(call.url)
            .headers(call.headers)
            .header(header::CONTENT_TYPE, media_type)
            .body(call.form);
        match tokio::time::timeout_at(call.deadline, request.send()).await {
            Ok(Ok(response)) => Ok(Reply::new(response, limits)),
            Ok(Err(error)) => Err(Failure::from_reqwest(error, self.options.connect_timeout())),
            Err(_) => Err(Failure::Deadline),
        }
    }
}
