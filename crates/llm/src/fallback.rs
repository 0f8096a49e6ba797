//! Several models as one: the first that can answer does. The next one is asked
//! only while nothing of an answer was handed on, and only when the failure is the
//! provider's: what one refuses as wrong the next would refuse, too.

use std::sync::Arc;

use agentry_domain::{Code, Error, Result};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::model::{Model, ModelEvent, ModelRequest};

/// The models, in the order in which they are asked; never empty.
pub(crate) struct Fallback {
    first: Arc<dyn Model>,
    others: Vec<Arc<dyn Model>>,
}

impl Fallback {
    pub(crate) fn new(first: Arc<dyn Model>, others: Vec<Arc<dyn Model>>) -> Self {
        Self { first, others }
    }
}

/// Whether another provider may do better.
fn is_the_providers(error: &Error) -> bool {
    matches!(
        error.code,
        Code::ModelUnreachable
            | Code::ModelTimeout
            | Code::ModelUnauthorized
            | Code::ModelRateLimited
            | Code::ModelFailed
            | Code::ModelBadResponse
            | Code::ModelCircuitOpen
    )
}

#[async_trait]
impl Model for Fallback {
    async fn respond(
        &self,
        request: ModelRequest,
    ) -> Result<BoxStream<'static, Result<ModelEvent>>> {
        let mut outcome = begin(&*self.first, request.clone()).await;
        for model in &self.others {
            match outcome {
                Err(error) if is_the_providers(&error) => {
                    tracing::info!(error = %error.chain(), "a model did not answer; the next is asked");
                    outcome = begin(&**model, request.clone()).await;
                }
                outcome => return outcome,
            }
        }
        outcome
    }

    fn quotes(&self) -> bool {
        self.first.quotes()
    }
}

/// Begins an answer, and reads it up to the first thing that it says: a stream that
/// fails before that failed to begin.
async fn begin(
    model: &dyn Model,
    request: ModelRequest,
) -> Result<BoxStream<'static, Result<ModelEvent>>> {
    let mut events = model.respond(request).await?;
    let mut held = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        let says_something = !matches!(event, ModelEvent::Answering(_));
        held.push(Ok(event));
        if says_something {
            break;
        }
    }
    Ok(futures::stream::iter(held).chain(events).boxed())
}
