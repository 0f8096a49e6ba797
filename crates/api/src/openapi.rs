//! The OpenAPI document: its head, and what every operation has in common,
//! which is added here so that handlers declare only what is their own.

use std::collections::{BTreeMap, BTreeSet};

use agentry_domain::idempotency::IDEMPOTENCY_KEY_CHARS_MAX;
use agentry_domain::{Error, Result};
use agentry_gateway::operations::{Access, Class, Rule, SECURITY_SCHEMES, described};
use http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema, ServerBuilder, Type,
};
use utoipa::{PartialSchema, ToResponse, ToSchema};

use crate::problem::{OpenAiError, PROBLEM_JSON, Problem};

const DESCRIPTION: &str = "A self-hosted backend for AI agents in one binary.\n\n\
Every answer carries `X-Request-Id`. Unknown request fields are ignored; wrong types and broken \
rules are 422 with every fault listed. Errors are `application/problem+json`, under `/v1` in \
OpenAI's shape. A trailing slash is tolerated everywhere.";

const TAGS: &[(&str, &str)] = &[
    ("agents", "A model, its instructions and how it uses memory."),
    ("sessions", "Conversations, and the messages in them."),
    ("memories", "What a user, an agent or the organisation is to remember."),
    ("runs", "One message handled by one agent."),
    (
        "graph",
        "Nodes and the edges between them, in groups: what is known, and how it hangs together.",
    ),
    ("users", "The people and programs that the callers' products serve."),
    ("events", "What happens, as it happens, and from any place in the log."),
    ("webhooks", "URLs that hear of events, signed and in order."),
    ("mcp", "Servers of tools that speak the Model Context Protocol."),
    ("goals", "What is to be reached, and the goals that it is made of."),
    ("plans", "The steps by which a goal is to be reached."),
    ("tasks", "Pieces of work, and which of them wait for which."),
    ("keys", "API keys: what their holders may do, and until when."),
    ("audit", "Who did what, when and from where."),
    ("orgs", "Organisations, between which nothing crosses; for the installation's owner."),
    ("openai", "OpenAI's chat completions, so that its clients work by changing the base URL."),
    ("server", "The server itself: health, metrics, this document, the error codes."),
];

/// The document without operations.
pub fn head() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0"));
    let info = InfoBuilder::new()
        .title("Agentry")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license.build()));
    let tags = TAGS.iter().map(|(name, description)| {
        TagBuilder::new().name(*name).description(Some(*description)).build()
    });
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/").description(Some("This server.")).build()]))
        .tags(Some(tags))
        .components(Some(components()))
        .build()
}

fn components() -> Components {
    let mut components = Components::new();
    let [api_key, bearer] = SECURITY_SCHEMES;
    let header = ApiKeyValue::with_description("X-API-Key", "An API key: `ak_...`.");
    components.add_security_scheme(api_key, SecurityScheme::ApiKey(ApiKey::Header(header)));
    let http = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The same key, or a token of the configured identity provider."));
    components.add_security_scheme(bearer, SecurityScheme::Http(http.build()));
    let mut schemas = vec![
        (Problem::name().into_owned(), Problem::schema()),
        (OpenAiError::name().into_owned(), OpenAiError::schema()),
    ];
    Problem::schemas(&mut schemas);
    OpenAiError::schemas(&mut schemas);
    components.schemas.extend(schemas);
    components
        .responses
        .extend(COMMON.iter().map(|common| (common.name.to_owned(), RefOr::T(common.response()))));
    components
}

/// An error answer that several operations have.
struct Common {
    name: &'static str,
    description: &'static str,
    openai: bool,
    retry_after: bool,
}

const fn problem(name: &'static str, description: &'static str) -> Common {
    Common { name, description, openai: false, retry_after: false }
}

const fn openai(name: &'static str, description: &'static str) -> Common {
    Common { name, description, openai: true, retry_after: false }
}

const fn retried(mut common: Common) -> Common {
    common.retry_after = true;
    common
}

static COMMON: [Common; 19] = [
    problem("MalformedJson", "The body is not valid JSON."),
    problem("Unauthenticated", "No key, or one that is not valid."),
    problem(
        "Forbidden",
        "The caller's role does not allow this or, without keys, the request came from a page of \
another origin.",
    ),
    problem("NotFound", "There is no such resource in the caller's organisation."),
    problem("Conflict", "The request conflicts with the current state; `code` says how."),
    problem("PreconditionFailed", "`If-Match` names another version than the current one."),
    problem("BodyTooLarge", "The body is larger than the server accepts."),
    problem("UnsupportedMediaType", "The body's media type is not JSON."),
    problem("ValidationFailed", "Rules are broken, or something is not supported yet."),
    retried(problem(
        "TooManyRequests",
        "A limit of the caller's is reached, or a queue of runs is full; `code` says which.",
    )),
    problem("McpFailed", "The MCP server cannot be reached, or failed; `code` says how."),
    problem("Internal", "A failure on the server's side."),
    retried(problem(
        "Unavailable",
        "The server is overloaded or stopping, or its storage is away.",
    )),
    problem("DeadlineExceeded", "There was no answer in time."),
    problem("StorageFull", "There is no space left to store this."),
    openai("OpenAiInvalid", "The request is wrong; `code` says how."),
    openai("OpenAiRefused", "The caller may not do this."),
    openai("OpenAiFailed", "The server, the model or its provider failed; `code` says how."),
    retried(openai("OpenAiUnavailable", "The server is at its limit; try again later.")),
];

impl Common {
    fn response(&self) -> Response {
        let (media_type, schema) = if self.openai {
            ("application/json", OpenAiError::name())
        } else {
            (PROBLEM_JSON, Problem::name())
        };
        let content =
            ContentBuilder::new().schema(Some(Ref::from_schema_name(schema.as_ref()))).build();
        let mut response =
            ResponseBuilder::new().description(self.description).content(media_type, content);
        if self.retry_after {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
            let header = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("Seconds to wait before trying again."));
            response = response.header("Retry-After", header.build());
        }
        response.build()
    }
}

macro_rules! referred {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                let name = stringify!($name);
                (name, RefOr::Ref(Ref::from_response_name(name)))
            }
        }
    )*};
}

referred! {
    /// 404, for handlers that can answer it.
    NotFound,
    /// 409, for handlers that can answer it.
    Conflict,
    /// 412, for handlers that can answer it.
    PreconditionFailed,
    /// 422, for handlers that can answer it without a body or a query.
    ValidationFailed,
    /// 429, for handlers that can answer it.
    TooManyRequests,
    /// 502, for handlers that ask an MCP server.
    McpFailed,
}

/// Adds to every operation the answers that the gateway and the extractors give.
pub fn complete(document: &mut OpenApi, rules: &[Rule]) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in described(item) {
            sent_or_absent(operation);
            let rule = rules.iter().find(|rule| rule.method == method && rule.path == *path);
            if let Some(rule) = rule {
                let answers = if path.starts_with("/v1/") {
                    openai_answers(operation)
                } else {
                    answers(operation, rule)
                };
                add(operation, &answers);
                let is_once = if operation.request_body.is_some() {
                    !NOT_ONCE.contains(&path.as_str())
                } else {
                    BARE_ONCE.contains(&path.as_str())
                };
                if method == Method::POST && is_once {
                    // The key alone may be malformed.
                    if operation.request_body.is_none() {
                        add(operation, &Answers::from([("422", "ValidationFailed")]));
                    }
                    add_idempotency(operation);
                }
            }
        }
    }
}

/// A header or a part of the query is sent or is not there: there is no null
/// in either. A condition is an entity tag or `*` (RFC 9110, section 13.1).
fn sent_or_absent(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { continue };
        if let SchemaType::Array(types) = &mut schema.schema_type {
            types.retain(|one| *one != Type::Null);
            if let [one] = types.as_slice() {
                schema.schema_type = SchemaType::Type(one.clone());
            }
        }
        if let Some(names) = &mut schema.enum_values {
            names.retain(|name| !name.is_null());
        }
        if parameter.name == "If-Match" {
            schema.pattern = Some(IF_MATCH_PATTERN.to_owned());
        }
    }
}

const IF_MATCH_PATTERN: &str = r#"^(\*|(W/)?"[^",]*")$"#;

/// POSTs that take no `Idempotency-Key`: a ticket is a secret for a few seconds,
/// which is not kept so that it could be told again, a search changes nothing, a replay
/// that begins twice begins at the same place, what is imported twice is there once, what is
/// approved stays so, and a conversation has the metadata that it was given last.
const NOT_ONCE: [&str; 9] = [
    "/api/v1/events/tickets",
    "/api/v1/graph/import",
    "/api/v1/graph/search",
    "/api/v1/graph/subgraph",
    "/api/v1/graph/traverse",
    "/api/v1/mcp/servers/{id}/tools/{tool}/approve",
    "/api/v1/memories/search",
    "/api/v1/webhooks/{id}/replay",
    "/v1/conversations/{id}",
];

/// POSTs without a body that take one. The others have an end that is the same
/// however often they are sent, such as a run that is cancelled.
const BARE_ONCE: [&str; 3] = [
    "/api/v1/webhooks/{id}/rotate-secret",
    "/api/v1/webhooks/{id}/ping",
    "/api/v1/webhooks/{id}/deliveries/{delivery}/retry",
];

/// The request takes an `Idempotency-Key`, and says when an answer is that of an earlier
/// request.
fn add_idempotency(operation: &mut Operation) {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(IDEMPOTENCY_KEY_CHARS_MAX))
        .pattern(Some("^[!-~]([ -~]*[!-~])?$"));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Makes the request take effect once, however often it is sent: the same key and body \
within 24 hours get the first answer. With another body it is 422.",
        ))
        .schema(Some(key));
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter.build()));
    let replayed = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::Boolean).build()))
        .description(Some("`true` when this is the answer of an earlier request."))
        .build();
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('2')
        {
            response.headers.insert("Idempotency-Replayed".to_owned(), RefOr::T(replayed.clone()));
        }
    }
}

/// Writes a parameter that takes the rest of a path as OpenAPI does, which knows
/// only parameters.
pub fn plain_paths(document: &mut OpenApi) {
    let paths = std::mem::take(&mut document.paths.paths);
    let plain = |(path, item): (String, _)| (path.replace("{*", "{"), item);
    document.paths.paths = paths.into_iter().map(plain).collect();
}

const SCHEMAS: &str = "#/components/schemas/";

/// Leaves out schemas that nothing refers to: what stands in lists alone is written down
/// within each list.
pub fn without_unused(document: &mut OpenApi) -> Result<()> {
    loop {
        let text = serde_json::to_string(document).map_err(Error::internal)?;
        let referred: BTreeSet<&str> =
            text.split(SCHEMAS).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let Some(components) = &mut document.components else { return Ok(()) };
        let before = components.schemas.len();
        components.schemas.retain(|name, _| referred.contains(name.as_str()));
        if components.schemas.len() == before {
            return Ok(());
        }
    }
}

type Answers = BTreeMap<&'static str, &'static str>;

fn answers(operation: &Operation, rule: &Rule) -> Answers {
    let mut answers = Answers::from([("403", "Forbidden"), ("500", "Internal")]);
    if rule.access != Access::Open {
        answers.extend([("401", "Unauthenticated"), ("429", "TooManyRequests")]);
    }
    if rule.class != Class::Probe {
        answers.extend([("503", "Unavailable"), ("504", "DeadlineExceeded")]);
    }
    if !matches!(rule.method, Method::GET | Method::HEAD) {
        answers.insert("507", "StorageFull");
    }
    let has_query = operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if is_query(parameter)));
    if operation.request_body.is_some() {
        answers.extend([
            ("400", "MalformedJson"),
            ("413", "BodyTooLarge"),
            ("415", "UnsupportedMediaType"),
        ]);
    }
    let has_condition =
        operation.parameters.iter().flatten().any(
            |parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "If-Match"),
        );
    if operation.request_body.is_some() || has_query || has_condition {
        answers.insert("422", "ValidationFailed");
    }
    answers
}

fn is_query(parameter: &utoipa::openapi::path::Parameter) -> bool {
    parameter.parameter_in == ParameterIn::Query
}

fn openai_answers(operation: &Operation) -> Answers {
    let mut answers = Answers::from([
        ("401", "OpenAiRefused"),
        ("403", "OpenAiRefused"),
        ("429", "OpenAiUnavailable"),
        ("500", "OpenAiFailed"),
        ("503", "OpenAiUnavailable"),
        ("504", "OpenAiFailed"),
    ]);
    if operation.request_body.is_some() {
        answers.extend([
            ("400", "OpenAiInvalid"),
            ("404", "OpenAiInvalid"),
            ("409", "OpenAiInvalid"),
            ("413", "OpenAiInvalid"),
            ("415", "OpenAiInvalid"),
            ("422", "OpenAiInvalid"),
            ("502", "OpenAiFailed"),
            ("507", "OpenAiFailed"),
        ]);
    } else if operation.parameters.as_ref().is_some_and(|all| !all.is_empty()) {
        answers.extend([
            ("404", "OpenAiInvalid"),
            ("409", "OpenAiInvalid"),
            ("422", "OpenAiInvalid"),
            ("429", "OpenAiUnavailable"),
            ("507", "OpenAiFailed"),
        ]);
    }
    answers
}

fn add(operation: &mut Operation, answers: &Answers) {
    for (status, name) in answers {
        operation
            .responses
            .responses
            .entry((*status).to_owned())
            .or_insert_with(|| RefOr::Ref(Ref::from_response_name(*name)));
    }
}
