//! OpenAI's list of models: the agents, by name, and the models themselves.

use std::collections::HashSet;

use agentry_domain::{AgentId, Code, Error};
use agentry_gateway::Authenticated;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::{Handled, json};
use crate::extract::PathName;
use crate::state::ApiState;

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList<'a> {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The models.
    data: Vec<Model<'a>>,
}

/// Something that completes chats.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model<'a> {
    /// What to give as `model`.
    #[schema(example = "simple_agent")]
    id: &'a str,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// When it was made, in seconds since 1970; 0 for what is configured.
    created: u64,
    /// `agentry` for agents, the provider for models.
    #[schema(example = "agentry")]
    owned_by: &'a str,
}

/// List what completes chats
///
/// The newest agents by name, at most 1,000, and the configured models.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "model_list",
    tag = "openai",
    responses((status = 200, description = "The models.", body = ModelList<'static>)),
)]
pub async fn model_list(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
) -> Handled {
    let agents = state.engine.agent_summaries(&caller).await?;
    let models = state.engine.model_names();
    let mut seen = HashSet::new();
    let agents = agents.iter().map(|agent| Model {
        id: &agent.name,
        object: "model",
        created: made_at(agent.id),
        owned_by: "agentry",
    });
    let models = models.iter().map(|model| Model {
        id: model,
        object: "model",
        created: 0,
        owned_by: model.split('/').next().unwrap_or_default(),
    });
    let data = agents.chain(models).filter(|model| seen.insert(model.id)).collect();
    json(StatusCode::OK, &ModelList { object: "list", data })
}

/// Read what completes chats
///
/// An agent by its name or id, or a model of a configured provider, listed or not.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    operation_id = "model_get",
    tag = "openai",
    params(("model" = String, Path, description = "As in the list; a slash is written `%2F`.")),
    responses(
        (status = 200, description = "The model.", body = Model<'static>),
    ),
)]
pub async fn model_get(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    PathName(name): PathName,
) -> Handled {
    let (created, owned_by) = match state.engine.agent_find(&caller, &name).await {
        Ok(agent) => (made_at(agent.id), "agentry"),
        Err(error) if error.code == Code::NotFound => {
            if state.engine.models().resolve(&name).is_err() {
                return Err(Error::not_found("model", &name).into());
            }
            (0, name.split('/').next().unwrap_or_default())
        }
        Err(error) => return Err(error.into()),
    };
    json(StatusCode::OK, &Model { id: &name, object: "model", created, owned_by })
}

/// An id's first 48 bits are the milliseconds of its making (RFC 9562, 5.7).
fn made_at(id: AgentId) -> u64 {
    let [a, b, c, d, e, f, ..] = id.to_bytes();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_it_was_made() {
        // The example of RFC 9562, A.6: 2022-02-22T19:22:22Z.
        let id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        assert_eq!(made_at(id), 1_645_557_742);
    }
}
