//! Model providers behind one trait. A model is named `provider/model`;
//! [`Models`] turns the name into a [`Model`], which turns a [`ModelRequest`]
//! into a stream of [`ModelEvent`]s. What to ask, what to remember and what to
//! store is left to the engine.

mod compatible;
mod model;
mod models;
mod recall;

pub use agentry_domain::chat::{
    ChatMessage, Image, ImageSource, Part, ResponseFormat, ToolCall, ToolChoice, ToolResult, ToolSpec,
};
pub use model::{FinishReason, Model, ModelEvent, ModelRequest, Passage, Source};
pub use models::{InvalidProvider, Models, Options, ProviderOptions, RECALL};
