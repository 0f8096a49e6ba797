//! What OpenAI's surfaces have in common: tools, the form of an answer, pieces of
//! content, each in the forms that chat completions and responses have.

use agentry_domain::chat::{
    ChatMessage, Image, ImageSource, Part, ResponseFormat, TOOLS_MAX, ToolCall, ToolChoice,
    ToolSpec, is_tool_name,
};
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};

use crate::fields::kinds::{Kind, Site};
use crate::fields::{NOT_SUPPORTED_YET, Purpose};
use crate::messages::CONTENT_CHARS_MAX;

/// Characters of an image, in base64 or as an address; the body's own bound comes
/// first for most.
const IMAGE_CHARS_MAX: usize = 20_000_000;
/// Characters of what says when to use a tool.
const DESCRIPTION_CHARS_MAX: usize = 10_000;
/// Characters of the id of a tool call.
pub(crate) const CALL_ID_CHARS_MAX: usize = 256;

fn any_of(types: &[Type]) -> Schema {
    let types = SchemaType::Array(types.to_vec());
    Schema::Object(ObjectBuilder::new().schema_type(types).build())
}

fn objects() -> Schema {
    let object = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Object));
    Schema::Array(ArrayBuilder::new().items(object.build()).build())
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str()
}

/// In which of OpenAI's two shapes something comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Chat completions: what a function is stands in `function`.
    Chat,
    /// Responses: it stands beside its type.
    Response,
}

impl Shape {
    fn function(self, value: &Value) -> Option<&Value> {
        match self {
            Self::Chat => value.get("function"),
            Self::Response => Some(value),
        }
    }
}

/// Functions of the client that a model may call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tools(pub(crate) Shape);

impl Kind for Tools {
    type Out = Vec<ToolSpec>;

    fn schema(&self, _purpose: Purpose) -> Schema {
        objects()
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<ToolSpec>> {
        let Value::Array(tools) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        if tools.len() > TOOLS_MAX {
            return site.fault("too_long", format!("must have {TOOLS_MAX} tools at most"));
        }
        let mut specs: Vec<ToolSpec> = Vec::with_capacity(tools.len());
        for (at, tool) in tools.iter().enumerate() {
            let spec = self.tool(at, tool, site)?;
            if specs.iter().any(|earlier| earlier.name == spec.name) {
                let detail = format!("tool {at} has the name of another, {:?}", spec.name);
                return site.fault("not_unique", detail);
            }
            specs.push(spec);
        }
        Some(specs)
    }

    fn placeholder(&self) -> Vec<ToolSpec> {
        Vec::new()
    }
}

impl Tools {
    fn tool(self, at: usize, tool: &Value, site: &mut Site<'_>) -> Option<ToolSpec> {
        match text(tool, "type") {
            Some("function") => {}
            Some(other) => {
                let detail = format!("tool {at}: there are no tools of the type {other:?} yet");
                return site.fault(NOT_SUPPORTED_YET, detail);
            }
            None => return site.fault("wrong_type", format!("tool {at} has no type")),
        }
        let Some(function @ Value::Object(_)) = self.0.function(tool) else {
            return site.fault("wrong_type", format!("tool {at} has no function"));
        };
        let name = text(function, "name").unwrap_or_default();
        if !is_tool_name(name) {
            let detail = format!("tool {at}: a name has 1 to 64 of a-z, A-Z, 0-9, _ and -");
            return site.fault("malformed", detail);
        }
        let description = text(function, "description").unwrap_or_default();
        if description.chars().count() > DESCRIPTION_CHARS_MAX {
            let detail =
                format!("tool {at}: a description has {DESCRIPTION_CHARS_MAX} characters at most");
            return site.fault("too_long", detail);
        }
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
            Some(schema @ Value::Object(_)) => schema.clone(),
            Some(_) => {
                return site.fault("wrong_type", format!("tool {at}: parameters are an object"));
            }
        };
        Some(ToolSpec {
            name: name.to_owned(),
            description: description.to_owned(),
            parameters,
            strict: function.get("strict").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// A tool, as it was given.
pub(crate) fn tool_json(tool: &ToolSpec) -> Value {
    json!({"type": "function", "name": tool.name, "description": tool.description,
        "parameters": tool.parameters, "strict": tool.strict})
}

/// Whether a model calls tools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice(pub(crate) Shape);

impl Kind for Choice {
    type Out = ToolChoice;

    fn schema(&self, _purpose: Purpose) -> Schema {
        any_of(&[Type::String, Type::Object])
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<ToolChoice> {
        match &value {
            Value::String(word) => match word.as_str() {
                "auto" => Some(ToolChoice::Auto),
                "none" => Some(ToolChoice::None),
                "required" => Some(ToolChoice::Required),
                _ => site.fault("not_allowed", "must be auto, none, required, or name a function"),
            },
            Value::Object(_) if text(&value, "type") == Some("function") => {
                let function = self.0.function(&value);
                match function.and_then(|function| text(function, "name")) {
                    Some(name) => Some(ToolChoice::Tool(name.to_owned())),
                    None => site.fault("wrong_type", "names no function"),
                }
            }
            Value::Object(_) => site.fault(NOT_SUPPORTED_YET, "only a function can be demanded"),
            _ => site.fault("wrong_type", "must be text or an object"),
        }
    }

    fn placeholder(&self) -> ToolChoice {
        ToolChoice::Auto
    }
}

/// A choice, as it is told.
pub(crate) fn choice_json(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Tool(name) => json!({"type": "function", "name": name}),
    }
}

/// The form that an answer has to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format(pub(crate) Shape);

impl Kind for Format {
    type Out = ResponseFormat;

    fn schema(&self, _purpose: Purpose) -> Schema {
        any_of(&[Type::Object])
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<ResponseFormat> {
        let form = match text(&value, "type") {
            Some("text") => return Some(ResponseFormat::Text),
            Some("json_object") => return Some(ResponseFormat::JsonObject),
            Some("json_schema") if self.0 == Shape::Response => Some(&value),
            Some("json_schema") => value.get("json_schema"),
            Some(_) => {
                return site.fault(NOT_SUPPORTED_YET, "must be text, json_object or json_schema");
            }
            None => return site.fault("wrong_type", "must be an object with a type"),
        };
        let Some(form @ Value::Object(_)) = form else {
            return site.fault("wrong_type", "json_schema is missing");
        };
        let name = text(form, "name").unwrap_or_default();
        if !is_tool_name(name) {
            let detail = "a schema's name has 1 to 64 of a-z, A-Z, 0-9, _ and -";
            return site.fault("malformed", detail);
        }
        let Some(schema @ Value::Object(_)) = form.get("schema") else {
            return site.fault("required", "there is no schema");
        };
        Some(ResponseFormat::JsonSchema {
            name: name.to_owned(),
            description: text(form, "description").map(str::to_owned),
            schema: schema.clone(),
            strict: form.get("strict").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    fn placeholder(&self) -> ResponseFormat {
        ResponseFormat::Text
    }
}

/// A form, as responses tell it.
pub(crate) fn format_json(format: &ResponseFormat) -> Value {
    match format {
        ResponseFormat::Text => json!({"type": "text"}),
        ResponseFormat::JsonObject => json!({"type": "json_object"}),
        ResponseFormat::JsonSchema { name, description, schema, strict } => json!({
            "type": "json_schema", "name": name, "description": description, "schema": schema,
            "strict": strict}),
    }
}

/// What is said and shown: text, or a list of pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content;

impl Kind for Content {
    type Out = Vec<Part>;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let types = SchemaType::Array(vec![Type::String, Type::Array]);
        let object = ObjectBuilder::new().schema_type(types).max_length(Some(CONTENT_CHARS_MAX));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<Part>> {
        parts(&value, site)
    }

    fn placeholder(&self) -> Vec<Part> {
        Vec::new()
    }
}

/// Reads the pieces of a content. Texts that follow one another are one.
pub(crate) fn parts(value: &Value, site: &mut Site<'_>) -> Option<Vec<Part>> {
    let given = match value {
        Value::String(text) => return Some(vec![Part::Text { text: bounded(text, site)? }]),
        Value::Array(given) => given,
        _ => return site.fault("wrong_type", "must be text or a list of parts"),
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut said = String::new();
    for (at, part) in given.iter().enumerate() {
        match text(part, "type") {
            Some("text" | "input_text" | "output_text") => {
                let Some(more) = text(part, "text") else {
                    return site.fault("wrong_type", format!("part {at} has no text"));
                };
                said.push_str(more);
                bounded(&said, site)?;
            }
            Some("refusal") => said.push_str(text(part, "refusal").unwrap_or_default()),
            Some("image_url" | "input_image") => {
                if !said.is_empty() {
                    parts.push(Part::Text { text: std::mem::take(&mut said) });
                }
                parts.push(Part::Image(image(at, part, site)?));
            }
            Some(other) => {
                let detail = format!("part {at}: {other:?} is neither text nor an image");
                return site.fault(NOT_SUPPORTED_YET, detail);
            }
            None => return site.fault("wrong_type", format!("part {at} has no type")),
        }
    }
    if !said.is_empty() || parts.is_empty() {
        parts.push(Part::Text { text: said });
    }
    Some(parts)
}

fn bounded(text: &str, site: &mut Site<'_>) -> Option<String> {
    if text.len() > CONTENT_CHARS_MAX && text.chars().count() > CONTENT_CHARS_MAX {
        let detail = format!("must have {CONTENT_CHARS_MAX} characters at most");
        return site.fault("too_long", detail);
    }
    Some(text.to_owned())
}

fn image(at: usize, part: &Value, site: &mut Site<'_>) -> Option<Image> {
    // Chat completions have an object there, responses the address itself.
    let (url, detail) = match part.get("image_url") {
        Some(Value::String(url)) => (Some(url.as_str()), text(part, "detail")),
        Some(image @ Value::Object(_)) => (text(image, "url"), text(image, "detail")),
        _ => (None, None),
    };
    if url.is_none() && part.get("file_id").is_some_and(Value::is_string) {
        return site.fault(NOT_SUPPORTED_YET, format!("part {at}: there are no uploaded files"));
    }
    let Some(url) = url.filter(|url| url.len() <= IMAGE_CHARS_MAX) else {
        return site.fault("wrong_type", format!("part {at} has no image, or a too large one"));
    };
    let source = match url.strip_prefix("data:") {
        Some(data) => match data.split_once(";base64,") {
            Some((media_type, base64)) if media_type.starts_with("image/") => {
                ImageSource::Inline { media_type: media_type.to_owned(), base64: base64.to_owned() }
            }
            _ => return site.fault("malformed", format!("part {at} is no image in base64")),
        },
        None if url.starts_with("https://") || url.starts_with("http://") => {
            ImageSource::Url(url.to_owned())
        }
        None => {
            return site.fault("malformed", format!("part {at} has no http, https or data URL"));
        }
    };
    Some(Image { source, detail: detail.map(str::to_owned) })
}

/// The address of a picture.
pub(crate) fn image_url(image: &Image) -> String {
    match &image.source {
        ImageSource::Url(url) => url.clone(),
        ImageSource::Inline { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
    }
}

/// The calls of a message of the model's, as chat completions have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls;

impl Kind for Calls {
    type Out = Vec<ToolCall>;

    fn schema(&self, _purpose: Purpose) -> Schema {
        objects()
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<ToolCall>> {
        let Value::Array(calls) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        if calls.len() > TOOLS_MAX {
            return site.fault("too_long", format!("must have {TOOLS_MAX} calls at most"));
        }
        let mut read = Vec::with_capacity(calls.len());
        for (at, call) in calls.iter().enumerate() {
            if text(call, "type").is_some_and(|kind| kind != "function") {
                let detail = format!("call {at} is not one of a function");
                return site.fault(NOT_SUPPORTED_YET, detail);
            }
            let function = call.get("function").unwrap_or(&Value::Null);
            let (id, name) = (text(call, "id"), text(function, "name"));
            match (id, name, text(function, "arguments")) {
                (Some(id), Some(name), Some(arguments)) if is_call_id(id) && is_tool_name(name) => {
                    read.push(ToolCall {
                        id: id.to_owned(),
                        name: name.to_owned(),
                        arguments: arguments.to_owned(),
                        signature: None,
                    });
                }
                _ => {
                    let detail = format!("call {at} has no id, or no name and arguments");
                    return site.fault("wrong_type", detail);
                }
            }
        }
        Some(read)
    }

    fn placeholder(&self) -> Vec<ToolCall> {
        Vec::new()
    }
}

/// Whether a text can be the id of a call.
pub(crate) fn is_call_id(id: &str) -> bool {
    (1..=CALL_ID_CHARS_MAX).contains(&id.chars().count())
}

/// The ids of calls that messages have.
pub(crate) fn called(messages: &[ChatMessage]) -> impl Iterator<Item = &str> {
    messages
        .iter()
        .flat_map(|message| match message {
            ChatMessage::Assistant { calls, .. } => calls.as_slice(),
            _ => &[],
        })
        .map(|call| call.id.as_str())
}

/// Settings that go to the model's provider as they are, under the name that chat
/// completions have for them.
pub(crate) fn parameters_json(parameters: Map<String, Value>) -> Option<String> {
    (!parameters.is_empty()).then(|| Value::Object(parameters).to_string())
}
