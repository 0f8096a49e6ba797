//! Which models there are: the builtin one and those of the configured
//! providers. Names are resolved here and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use agentry_outbound::{Client, Url};

use crate::compatible::{Compatible, Endpoint};
use crate::model::Model;
use crate::recall::Recall;

/// The model that needs no provider.
pub const RECALL: &str = agentry_domain::agents::MODEL_DEFAULT;
/// What a model of a configured provider begins with.
const COMPATIBLE: &str = "compatible";

/// The configured providers, by the name that models are addressed with.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Each offers its models as `compatible/NAME/MODEL`.
    pub providers: BTreeMap<String, ProviderOptions>,
}

/// One server that speaks OpenAI's chat protocol.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderOptions {
    /// Where `/chat/completions` is appended; ends in `/v1` as a rule.
    pub base_url: String,
    /// Sent as a bearer token.
    #[serde(default)]
    pub key: Option<String>,
    /// Models to show in lists. Others can be used all the same.
    #[serde(default)]
    pub models: Vec<String>,
    /// Replaces outbound's `first_byte_timeout_ms` for this provider.
    #[serde(default)]
    pub first_byte_timeout_ms: Option<u64>,
    /// Replaces outbound's `idle_timeout_ms` for this provider.
    #[serde(default)]
    pub idle_timeout_ms: Option<u64>,
}

impl ProviderOptions {
    /// A provider without a key.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            key: None,
            models: Vec::new(),
            first_byte_timeout_ms: None,
            idle_timeout_ms: None,
        }
    }
}

impl fmt::Debug for ProviderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderOptions")
            .field("base_url", &self.base_url)
            .field("key", &self.key.as_ref().map(|_| "[hidden]"))
            .field("models", &self.models)
            .field("first_byte_timeout_ms", &self.first_byte_timeout_ms)
            .field("idle_timeout_ms", &self.idle_timeout_ms)
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
    client: Client,
    providers: BTreeMap<String, Provider>,
}

#[derive(Clone)]
struct Provider {
    endpoint: Arc<Endpoint>,
    listed: Vec<String>,
}

impl Models {
    /// Checks every provider's settings.
    pub fn new(options: &Options, client: Client) -> Result<Self, InvalidProvider> {
        let providers = options
            .providers
            .iter()
            .map(|(name, options)| {
                let endpoint = endpoint(name, options)
                    .map_err(|reason| InvalidProvider { name: name.clone(), reason })?;
                let listed = options.models.clone();
                Ok((name.clone(), Provider { endpoint: Arc::new(endpoint), listed }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { client, providers })
    }

    /// The model of this name: `builtin/recall` or `compatible/NAME/MODEL`.
    /// Any MODEL of a configured provider is taken; whether it exists only the
    /// provider knows. `model_unknown` says what is configured.
    pub fn resolve(&self, model: &str) -> Result<Arc<dyn Model>> {
        if model == RECALL {
            return Ok(Arc::new(Recall));
        }
        let mut parts = model.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(COMPATIBLE), Some(name), Some(model)) if !model.is_empty() => {
                match self.providers.get(name) {
                    Some(provider) => Ok(Arc::new(Compatible::new(
                        self.client.clone(),
                        provider.endpoint.clone(),
                        model,
                    ))),
                    None => Err(self.unknown(&format!(
                        "no provider named {name:?} is configured for the model {model:?}"
                    ))),
                }
            }
            _ => Err(self.unknown(&format!("there is no model {model:?}"))),
        }
    }

    /// The names to show in lists, the builtin model first.
    pub fn names(&self) -> Vec<String> {
        let configured = self.providers.iter().flat_map(|(name, provider)| {
            provider.listed.iter().map(move |model| format!("{COMPATIBLE}/{name}/{model}"))
        });
        std::iter::once(RECALL.to_owned()).chain(configured).collect()
    }

    fn unknown(&self, what: &str) -> Error {
        let offered: Vec<String> = std::iter::once(RECALL.to_owned())
            .chain(self.providers.keys().map(|name| format!("{COMPATIBLE}/{name}/MODEL")))
            .collect();
        let mut detail = format!("{what}; there is {}", offered.join(", "));
        if self.providers.is_empty() {
            detail.push_str(
                ", and compatible/NAME/MODEL once a provider NAME is in the configuration",
            );
        }
        Error::new(Code::ModelUnknown, detail)
    }
}

fn endpoint(name: &str, options: &ProviderOptions) -> Result<Endpoint, String> {
    if name.is_empty() || name.contains('/') {
        return Err("a provider's name is not empty and holds no slash".to_owned());
    }
    let mut url =
        Url::parse(&options.base_url).map_err(|error| format!("base_url is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("base_url begins with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("base_url holds credentials; they belong in key".to_owned());
    }
    url.path_segments_mut()
        .map_err(|()| "base_url cannot be extended by a path".to_owned())?
        .pop_if_empty()
        .extend(["chat", "completions"]);
    let key = options.key.as_deref().filter(|key| !key.is_empty());
    Endpoint::new(
        name,
        url,
        key,
        options.first_byte_timeout_ms.map(Duration::from_millis),
        options.idle_timeout_ms.map(Duration::from_millis),
    )
    .ok_or_else(|| "key holds characters that no header can carry".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(providers: &[(&str, ProviderOptions)]) -> Result<Models, InvalidProvider> {
        let providers =
            providers.iter().map(|(name, options)| ((*name).to_owned(), options.clone())).collect();
        let client = Client::new(&agentry_outbound::Options::default()).unwrap();
        Models::new(&Options { providers }, client)
    }

    #[test]
    fn names_resolve_and_unknown_ones_say_what_there_is() {
        let local = ProviderOptions {
            models: vec!["small".to_owned()],
            ..ProviderOptions::new("http://127.0.0.1:1/v1")
        };
        let models = models(&[("local", local)]).unwrap();
        assert_eq!(models.names(), ["builtin/recall", "compatible/local/small"]);
        for known in ["builtin/recall", "compatible/local/small", "compatible/local/org/other:7b"] {
            assert!(models.resolve(known).is_ok(), "{known}");
        }
        assert!(models.resolve("builtin/recall").unwrap().quotes());
        assert!(!models.resolve("compatible/local/small").unwrap().quotes());
        for unknown in
            ["", "recall", "builtin/other", "openai/x", "compatible/local/", "compatible/local"]
        {
            let error = models.resolve(unknown).err().unwrap();
            assert_eq!(error.code, Code::ModelUnknown, "{unknown}");
            assert!(error.detail.contains("compatible/local/MODEL"), "{error}");
        }
        let error = models.resolve("compatible/remote/small").err().unwrap();
        assert!(error.detail.contains("\"remote\""), "{error}");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_at_start() {
        for (name, base_url) in [
            ("a", "not a url"),
            ("a", "ftp://host/v1"),
            ("a", "http://user:secret@host/v1"),
            ("a/b", "http://host/v1"),
            ("", "http://host/v1"),
        ] {
            let refused = models(&[(name, ProviderOptions::new(base_url))]).err();
            assert!(refused.is_some(), "{name:?} {base_url}");
        }
        let key = Some("line\nbreak".to_owned());
        let options = ProviderOptions { key, ..ProviderOptions::new("http://host/v1") };
        let refused = models(&[("a", options)]).err().unwrap().to_string();
        assert!(!refused.contains("line"), "{refused}");
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = Some("sk-secret".to_owned());
        let options = ProviderOptions { key, ..ProviderOptions::new("http://host/v1") };
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn the_path_is_appended_to_the_base() {
        for (base, expected) in [
            ("http://host/v1", "http://host/v1/chat/completions"),
            ("http://host/v1/", "http://host/v1/chat/completions"),
            ("http://host", "http://host/chat/completions"),
            ("http://host/d/x?api-version=1", "http://host/d/x/chat/completions?api-version=1"),
        ] {
            let endpoint = endpoint("a", &ProviderOptions::new(base)).unwrap();
            assert_eq!(endpoint.url().as_str(), expected);
        }
    }
}
