//! Texts as vectors: asked of a configured provider, in OpenAI's protocol or Ollama's,
//! and checked before anybody compares them.

use std::sync::Arc;

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{PostJson, Url};
use http::{HeaderValue, header};
use serde_json::Value;
use tokio::time::Instant;

use crate::failures;
use crate::provider::Endpoint;

/// Numbers of a vector at most.
pub const EMBEDDING_DIMENSIONS_MAX: usize = 8_192;
/// Texts of one call at most.
pub const EMBEDDING_TEXTS_MAX: usize = 128;

/// A protocol that texts are turned into vectors in.
pub(crate) trait EmbeddingDialect: Send + Sync {
    /// Where that is asked.
    fn embedding_url(&self, base: &Url) -> Option<Url>;

    /// The request.
    fn embedding_body(&self, model: &str, texts: &[&str]) -> Value;

    /// The vectors of an answer, in the order of the texts; none when it has another
    /// form.
    fn embedding_read(&self, answer: Value) -> Option<Vec<Vec<f64>>>;
}

/// A model that turns texts into vectors.
#[derive(Clone, Debug)]
pub struct Embedder {
    endpoint: Arc<Endpoint>,
    model: String,
}

impl Embedder {
    pub(crate) fn new(endpoint: Arc<Endpoint>, model: &str) -> Result<Self> {
        if endpoint.dialect.embeddings().is_none() {
            let detail = format!(
                "the provider {:?} is not asked for vectors: only those of the kinds openai, \
                 compatible and ollama are",
                endpoint.name
            );
            return Err(Error::new(Code::ModelRejected, detail));
        }
        Ok(Self { endpoint, model: model.to_owned() })
    }

    /// The vectors of some texts, each of length 1 and all with as many numbers, in the
    /// order of the texts. Fails with a `model_*` code, by the deadline.
    pub async fn embed(&self, texts: &[&str], deadline: Instant) -> Result<Vec<Vec<f32>>> {
        let endpoint = &*self.endpoint;
        let dialect = endpoint.dialect.embeddings();
        let (Some(dialect), 1..=EMBEDDING_TEXTS_MAX) = (dialect, texts.len()) else {
            return Err(Error::internal("texts that no call can turn into vectors"));
        };
        let url = dialect.embedding_url(&endpoint.base).ok_or_else(|| {
            Error::new(Code::ModelUnknown, format!("{:?} is no model's name", self.model))
        })?;
        let mut headers = endpoint.bearer();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let call = PostJson {
            url,
            headers,
            body: dialect.embedding_body(&self.model, texts).to_string().into(),
            deadline,
            first_byte_timeout: endpoint.first_byte_timeout,
            idle_timeout: endpoint.idle_timeout,
        };
        let (reply, verdict) = endpoint
            .upstream
            .post_json(call)
            .await
            .map_err(|failure| failures::of_transport(endpoint, failure))?;
        if reply.status() != http::StatusCode::OK {
            let error = failures::of_status(endpoint, reply).await;
            match error.code {
                Code::ModelRejected | Code::ModelUnauthorized => verdict.succeeded(),
                _ => verdict.failed(),
            }
            return Err(error);
        }
        let vectors = match reply.bytes().await {
            Err(failure) => Err(failures::of_transport(endpoint, failure)),
            Ok(body) => serde_json::from_slice(&body)
                .map_err(|error| failures::unreadable(endpoint, error))
                .and_then(|answer| {
                    let vectors = dialect.embedding_read(answer);
                    vectors.and_then(|vectors| checked(vectors, texts.len())).ok_or_else(|| {
                        failures::unreadable(endpoint, "it has no vector for each text")
                    })
                }),
        };
        match &vectors {
            Ok(_) => verdict.succeeded(),
            Err(_) => verdict.failed(),
        }
        vectors
    }
}

/// Vectors of length 1, when there are as many as texts and they can be compared.
fn checked(vectors: Vec<Vec<f64>>, texts: usize) -> Option<Vec<Vec<f32>>> {
    let dimensions = vectors.first()?.len();
    let fits = vectors.len() == texts
        && (1..=EMBEDDING_DIMENSIONS_MAX).contains(&dimensions)
        && vectors.iter().all(|vector| vector.len() == dimensions);
    if !fits {
        return None;
    }
    vectors.into_iter().map(unit).collect()
}

fn unit(vector: Vec<f64>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|n| n * n).sum::<f64>().sqrt();
    if !length.is_finite() || length <= 0.0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "numbers from -1 to 1")]
    let scaled = |n: f64| (n / length) as f32;
    Some(vector.into_iter().map(scaled).collect())
}

/// A JSON list of numbers.
pub(crate) fn numbers(list: &Value) -> Option<Vec<f64>> {
    list.as_array()?.iter().map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ollama::Ollama;
    use crate::openai::OpenAi;

    #[test]
    fn answers_are_read_in_the_order_of_the_texts_and_checked() {
        let openai = json!({"object": "list", "data": [
            {"object": "embedding", "index": 1, "embedding": [0.0, 2.0]},
            {"object": "embedding", "index": 0, "embedding": [3.0, 4.0]},
        ]});
        let read = OpenAi.embedding_read(openai).and_then(|all| checked(all, 2));
        assert_eq!(read, Some(vec![vec![0.6, 0.8], vec![0.0, 1.0]]));
        let ollama = json!({"model": "m", "embeddings": [[3.0, 4.0], [0.0, 2.0]]});
        let read = Ollama.embedding_read(ollama).and_then(|all| checked(all, 2));
        assert_eq!(read, Some(vec![vec![0.6, 0.8], vec![0.0, 1.0]]));
        for (vectors, texts) in [
            (vec![], 0),
            (vec![vec![1.0]], 2),
            (vec![vec![1.0], vec![1.0, 2.0]], 2),
            (vec![vec![0.0, 0.0]], 1),
            (vec![vec![]], 1),
            (vec![vec![f64::MAX, f64::MAX]], 1),
            (vec![vec![1.0; EMBEDDING_DIMENSIONS_MAX + 1]], 1),
        ] {
            assert_eq!(checked(vectors, texts), None);
        }
        assert_eq!(OpenAi.embedding_read(json!({"data": [{"embedding": ["x"]}]})), None);
    }
}
