//! Model providers behind one trait. A model is named `provider/model`;
//! [`Models`] turns the name into a [`Model`], which turns a [`ModelRequest`]
//! into a stream of [`ModelEvent`]s. What to ask, what to remember and what to
//! store is left to the engine.

mod answer;
mod anthropic;
mod embeddings;
mod failures;
mod fallback;
mod gemini;
mod lines;
mod model;
mod models;
mod ollama;
mod openai;
mod parameters;
mod prices;
mod prompt;
mod provider;
mod recall;
mod sse;
mod vertex;

pub use agentry_domain::chat::{
    ChatMessage, Image, ImageSource, Part, ResponseFormat, ToolCall, ToolChoice, ToolResult,
    ToolSpec,
};
pub use agentry_outbound::UpstreamCounts;
pub use embeddings::{EMBEDDING_DIMENSIONS_MAX, EMBEDDING_TEXTS_MAX, Embedder};
pub use model::{FinishReason, Model, ModelEvent, ModelRequest, Passage, Source};
pub use models::{InvalidProvider, Models, Options, ProviderKind, ProviderOptions, RECALL};
pub use prices::Price;
