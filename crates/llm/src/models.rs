//! Which models there are: the builtin one and those of the configured
//! providers. Names are resolved here and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Upstream, UpstreamCounts, Url};

use crate::anthropic::Anthropic;
use crate::embeddings::Embedder;
use crate::fallback::Fallback;
use crate::gemini::Gemini;
use crate::model::Model;
use crate::ollama::Ollama;
use crate::openai::OpenAi;
use crate::prices::{Price, Prices};
use crate::provider::{Dialect, Endpoint, Provided};
use crate::recall::Recall;
use crate::vertex::{Account, Vertex};

/// The model that needs no provider.
pub const RECALL: &str = agentry_domain::agents::MODEL_DEFAULT;
/// What a model of a provider without a prefix of its own begins with.
const COMPATIBLE: &str = "compatible";
/// Names that no provider can have, because models begin with them.
const NAMES_TAKEN: &[&str] = &["builtin", COMPATIBLE];
/// Bytes of a credentials file at most.
const CREDENTIALS_BYTES_MAX: u64 = 64 * 1_024;

/// The configured providers, by the name that models are addressed with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Where they are and how they are asked.
    pub providers: BTreeMap<String, ProviderOptions>,
    /// How long calls may wait, and how often they are sent again.
    pub outbound: agentry_outbound::Options,
}

/// A protocol that providers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI's chat completions, at OpenAI.
    OpenAi,
    /// The same, anywhere else.
    Compatible,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's `generateContent`, at the Gemini API.
    Gemini,
    /// The same, at Vertex AI.
    Vertex,
    /// Ollama's own.
    Ollama,
}

impl ProviderKind {
    /// What a provider of this name is when it does not say.
    fn of_name(name: &str) -> Self {
        match name {
            "openai" => Self::OpenAi,
            "anthropic" => Self::Anthropic,
            "gemini" => Self::Gemini,
            "vertex" => Self::Vertex,
            "ollama" => Self::Ollama,
            _ => Self::Compatible,
        }
    }

    /// Where it is when it does not say.
    fn base_url(self, options: &ProviderOptions) -> Option<String> {
        Some(match self {
            Self::OpenAi => "https://api.openai.com/v1".to_owned(),
            Self::Compatible => return None,
            Self::Anthropic => "https://api.anthropic.com".to_owned(),
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta".to_owned(),
            Self::Vertex => match options.location.as_deref() {
                None | Some("global") => "https://aiplatform.googleapis.com/v1".to_owned(),
                Some(location) => format!("https://{location}-aiplatform.googleapis.com/v1"),
            },
            Self::Ollama => "http://127.0.0.1:11434".to_owned(),
        })
    }
}

/// One provider.
#[derive(Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderOptions {
    /// The protocol; what its name says when absent.
    pub kind: Option<ProviderKind>,
    /// Where it is; the provider's own address when absent.
    pub base_url: Option<String>,
    /// The API key.
    pub key: Option<String>,
    /// Models to show in lists. Others can be used all the same.
    pub models: Vec<String>,
    /// What tokens of its models cost.
    pub prices: BTreeMap<String, Price>,
    /// Replaces outbound's `first_byte_timeout_ms` for this provider.
    pub first_byte_timeout_ms: Option<u64>,
    /// Replaces outbound's `idle_timeout_ms` for this provider.
    pub idle_timeout_ms: Option<u64>,
    /// Vertex: the project.
    pub project: Option<String>,
    /// Vertex: the location.
    pub location: Option<String>,
    /// Vertex: the file of a service account's key.
    pub credentials_file: Option<PathBuf>,
}

impl ProviderOptions {
    /// A provider at an address, without a key.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self { base_url: Some(base_url.into()), ..Self::default() }
    }
}

impl fmt::Debug for ProviderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderOptions")
            .field("kind", &self.kind)
            .field("base_url", &self.base_url)
            .field("key", &self.key.as_ref().map(|_| "[hidden]"))
            .field("models", &self.models)
            .field("prices", &self.prices)
            .field("first_byte_timeout_ms", &self.first_byte_timeout_ms)
            .field("idle_timeout_ms", &self.idle_timeout_ms)
            .field("project", &self.project)
            .field("location", &self.location)
            .field("credentials_file", &self.credentials_file)
            .finish()
    }
}

/// A provider's settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("provider {name:?}: {reason}")]
pub struct InvalidProvider {
    /// The provider's name in the configuration.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Every model that can be asked.
#[derive(Clone)]
pub struct Models {
    providers: Arc<BTreeMap<String, Provider>>,
}

struct Provider {
    endpoint: Arc<Endpoint>,
    listed: Vec<String>,
}

impl Models {
    /// Checks every provider's settings.
    pub fn new(options: &Options) -> Result<Self, InvalidProvider> {
        let providers = options
            .providers
            .iter()
            .map(|(name, provider)| {
                let endpoint = endpoint(name, provider, &options.outbound)
                    .map_err(|reason| InvalidProvider { name: name.clone(), reason })?;
                let listed = provider.models.clone();
                Ok((name.clone(), Provider { endpoint: Arc::new(endpoint), listed }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { providers: Arc::new(providers) })
    }

    /// The model of this name: `builtin/recall`, `NAME/MODEL` or
    /// `compatible/NAME/MODEL`. Any MODEL of a configured provider is taken; whether it
    /// exists only the provider knows. `model_unknown` says what is configured.
    pub fn resolve(&self, model: &str) -> Result<Arc<dyn Model>> {
        if model == RECALL {
            return Ok(Arc::new(Recall));
        }
        let (endpoint, name) = self.endpoint(model)?;
        Ok(Arc::new(Provided::new(endpoint, name)))
    }

    /// The model of this name for turning texts into vectors. `model_rejected` says that
    /// its provider's protocol has no such thing.
    pub fn embedder(&self, model: &str) -> Result<Embedder> {
        let (endpoint, name) = self.endpoint(model)?;
        Embedder::new(endpoint, name)
    }

    /// The provider of a model, and the model's own name.
    fn endpoint<'m>(&self, model: &'m str) -> Result<(Arc<Endpoint>, &'m str)> {
        let (provider, model_name) = match model.strip_prefix("compatible/") {
            Some(rest) => rest.split_once('/').unzip(),
            None => model.split_once('/').unzip(),
        };
        let (Some(provider), Some(name)) = (provider, model_name.filter(|name| !name.is_empty()))
        else {
            return Err(self.unknown(&format!("there is no model {model:?}")));
        };
        let found = self.providers.get(provider).filter(|found| {
            // Each model has one name.
            format!("{}/{name}", found.endpoint.prefix) == model
        });
        match found {
            Some(found) => Ok((found.endpoint.clone(), name)),
            None => Err(self.unknown(&format!(
                "no provider named {provider:?} is configured for the model {model:?}"
            ))),
        }
    }

    /// The model of this name and, when it cannot answer, those that follow. Names are
    /// checked before anything is asked.
    pub fn resolve_first(&self, model: &str, fallbacks: &[String]) -> Result<Arc<dyn Model>> {
        let first = self.resolve(model)?;
        if fallbacks.is_empty() {
            return Ok(first);
        }
        let others = fallbacks.iter().map(|name| self.resolve(name)).collect::<Result<_>>()?;
        Ok(Arc::new(Fallback::new(first, others)))
    }

    /// The names to show in lists, the builtin model first.
    pub fn names(&self) -> Vec<String> {
        let configured = self.providers.values().flat_map(|provider| {
            let prefix = &provider.endpoint.prefix;
            provider.listed.iter().map(move |model| format!("{prefix}/{model}"))
        });
        std::iter::once(RECALL.to_owned()).chain(configured).collect()
    }

    /// What happened with each provider since the process started.
    pub fn counts(&self) -> Vec<UpstreamCounts> {
        self.providers.values().map(|provider| provider.endpoint.upstream.counts()).collect()
    }

    fn unknown(&self, what: &str) -> Error {
        let offered: Vec<String> = std::iter::once(RECALL.to_owned())
            .chain(self.providers.values().map(|it| format!("{}/MODEL", it.endpoint.prefix)))
            .collect();
        let mut detail = format!("{what}; there is {}", offered.join(", "));
        if self.providers.is_empty() {
            detail.push_str(", and NAME/MODEL once a provider NAME is in the configuration");
        }
        Error::new(Code::ModelUnknown, detail)
    }
}

/// Checks a provider's settings; says what is wrong with them.
pub(crate) fn endpoint(
    name: &str,
    options: &ProviderOptions,
    outbound: &agentry_outbound::Options,
) -> Result<Endpoint, String> {
    if name.is_empty() || name.contains('/') || NAMES_TAKEN.contains(&name) {
        return Err("a provider's name is not empty, holds no slash, and is not one of builtin \
            and compatible"
            .to_owned());
    }
    let kind = options.kind.unwrap_or(ProviderKind::of_name(name));
    let base = options.base_url.clone().or_else(|| kind.base_url(options));
    let base = base.ok_or("base_url is missing")?;
    let base = Url::parse(&base).map_err(|error| format!("base_url is not a URL: {error}"))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err("base_url begins with http:// or https://".to_owned());
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("base_url holds credentials; they belong in key".to_owned());
    }
    if base.cannot_be_a_base() {
        return Err("base_url cannot be extended by a path".to_owned());
    }
    let key = options.key.clone().filter(|key| !key.is_empty());
    if key.as_deref().is_some_and(|key| http::HeaderValue::from_str(key).is_err()) {
        return Err("key holds characters that no header can carry".to_owned());
    }
    let prices = Prices::new(&options.prices).ok_or("prices are not negative, and finite")?;
    let upstream = |name: &str| Upstream::new(name, outbound).map_err(|error| error.to_string());
    let is_vertex = kind == ProviderKind::Vertex;
    let vertex_only =
        [options.project.is_some(), options.location.is_some(), options.credentials_file.is_some()];
    if !is_vertex && vertex_only.contains(&true) {
        return Err("project, location and credentials_file are for the kind vertex".to_owned());
    }
    let dialect: Box<dyn Dialect> = match kind {
        ProviderKind::OpenAi | ProviderKind::Compatible => Box::new(OpenAi),
        ProviderKind::Anthropic => Box::new(Anthropic),
        ProviderKind::Gemini => Box::new(Gemini),
        ProviderKind::Ollama => Box::new(Ollama),
        ProviderKind::Vertex => Box::new(vertex(options, upstream("vertex-token")?)?),
    };
    let prefix = match kind {
        ProviderKind::Compatible => format!("{COMPATIBLE}/{name}"),
        _ => name.to_owned(),
    };
    Ok(Endpoint {
        name: name.to_owned(),
        prefix,
        base,
        key,
        dialect,
        upstream: upstream(name)?,
        prices,
        first_byte_timeout: options.first_byte_timeout_ms.map(Duration::from_millis),
        idle_timeout: options.idle_timeout_ms.map(Duration::from_millis),
    })
}

fn vertex(options: &ProviderOptions, upstream: Upstream) -> Result<Vertex, String> {
    let Some(file) = &options.credentials_file else {
        if options.key.is_none() {
            return Err("vertex needs a credentials_file, or a key".to_owned());
        }
        return Ok(Vertex::with_key());
    };
    let (Some(project), Some(location)) = (&options.project, &options.location) else {
        return Err("vertex with a credentials_file needs project and location".to_owned());
    };
    let unreadable = |error| format!("{} cannot be read: {error}", file.display());
    let length = std::fs::metadata(file).map_err(unreadable)?.len();
    if length > CREDENTIALS_BYTES_MAX {
        return Err(format!("{} is too large", file.display()));
    }
    let json = std::fs::read_to_string(file).map_err(unreadable)?;
    Ok(Vertex::in_project(project, location, Account::read(&json, upstream)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(providers: &[(&str, ProviderOptions)]) -> Result<Models, InvalidProvider> {
        let providers =
            providers.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect();
        Models::new(&Options { providers, ..Options::default() })
    }

    #[test]
    fn names_resolve_and_unknown_ones_say_what_there_is() {
        let local = ProviderOptions {
            models: vec!["small".to_owned()],
            ..ProviderOptions::new("http://127.0.0.1:1/v1")
        };
        let claude = ProviderOptions {
            kind: Some(ProviderKind::Anthropic),
            models: vec!["big".to_owned()],
            ..ProviderOptions::default()
        };
        let models =
            models(&[("local", local), ("mine", claude), ("openai", ProviderOptions::default())])
                .unwrap();
        assert_eq!(models.names(), ["builtin/recall", "compatible/local/small", "mine/big"]);
        for known in [
            "builtin/recall",
            "compatible/local/small",
            "compatible/local/org/other:7b",
            "mine/other",
            "openai/gpt-5-mini",
        ] {
            assert!(models.resolve(known).is_ok(), "{known}");
        }
        assert!(models.resolve("builtin/recall").unwrap().quotes());
        assert!(!models.resolve("compatible/local/small").unwrap().quotes());
        for unknown in [
            "",
            "recall",
            "builtin/other",
            "anthropic/x",
            "compatible/local/",
            "compatible/local",
            "local/small",
            "compatible/openai/x",
        ] {
            let error = models.resolve(unknown).err().unwrap();
            assert_eq!(error.code, Code::ModelUnknown, "{unknown}");
            assert!(error.detail.contains("compatible/local/MODEL"), "{error}");
        }
        let error = models.resolve("compatible/remote/small").err().unwrap();
        assert!(error.detail.contains("\"remote\""), "{error}");
        let fallbacks = ["mine/big".to_owned(), "nobody/x".to_owned()];
        assert!(models.resolve_first("openai/x", &fallbacks[..1]).is_ok());
        assert!(models.resolve_first("openai/x", &fallbacks).is_err());
    }

    #[test]
    fn settings_that_cannot_work_are_refused_at_start() {
        for (name, base_url) in [
            ("a", "not a url"),
            ("a", "ftp://host/v1"),
            ("a", "http://user:secret@host/v1"),
            ("a/b", "http://host/v1"),
            ("", "http://host/v1"),
            ("builtin", "http://host/v1"),
        ] {
            let refused = models(&[(name, ProviderOptions::new(base_url))]).err();
            assert!(refused.is_some(), "{name:?} {base_url}");
        }
        let key = Some("line\nbreak".to_owned());
        let broken_key = ProviderOptions { key, ..ProviderOptions::new("http://host/v1") };
        let price = Price { input: -1.0, cached_input: None, output: 1.0 };
        let prices = BTreeMap::from([("m".to_owned(), price)]);
        let file = Some(PathBuf::from("/nowhere/file.json"));
        for (name, options, reason) in [
            ("a", broken_key, "no header"),
            ("a", ProviderOptions::default(), "base_url is missing"),
            ("openai", ProviderOptions { prices, ..ProviderOptions::default() }, "prices"),
            ("vertex", ProviderOptions::default(), "credentials_file"),
            (
                "vertex",
                ProviderOptions { credentials_file: file.clone(), ..ProviderOptions::default() },
                "project and location",
            ),
            (
                "gemini",
                ProviderOptions { credentials_file: file, ..ProviderOptions::default() },
                "kind vertex",
            ),
        ] {
            let refused = models(&[(name, options)]).err().unwrap().to_string();
            assert!(refused.contains(reason) && !refused.contains("line"), "{refused}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = Some("sk-secret".to_owned());
        let options = ProviderOptions { key, ..ProviderOptions::new("http://host/v1") };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
