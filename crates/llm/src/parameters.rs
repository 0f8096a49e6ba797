//! Settings that a request brings in OpenAI's words, in the words of other
//! protocols. A word that OpenAI knows and a protocol has nothing for is refused, so
//! that nobody believes it to have an effect; other words go to the provider as they
//! are.

use agentry_domain::{Code, Error, Result};
use serde_json::{Map, Value};

/// OpenAI's words that are not those of every protocol.
const OPENAI_WORDS: &[&str] = &[
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "presence_penalty",
    "reasoning_effort",
    "seed",
    "stop",
    "temperature",
    "top_p",
    "verbosity",
];

/// One request's settings, taken out one by one.
#[derive(Debug)]
pub(crate) struct Parameters {
    left: Map<String, Value>,
}

impl Parameters {
    /// Those of a request. What holds its place in the request itself, such as
    /// `model` or `messages`, is not a setting and left out.
    pub(crate) fn of(parameters: &Map<String, Value>, ours: &[&str]) -> Self {
        let mut left = parameters.clone();
        left.retain(|name, value| !value.is_null() && !ours.contains(&name.as_str()));
        Self { left }
    }

    /// Moves a setting to where a protocol has it.
    pub(crate) fn to(&mut self, name: &str, into: &mut Map<String, Value>, as_name: &str) {
        if let Some(value) = self.left.remove(name) {
            into.insert(as_name.to_owned(), value);
        }
    }

    /// How many tokens an answer may have, in either word.
    pub(crate) fn tokens_max(&mut self) -> Option<Value> {
        let old = self.left.remove("max_tokens");
        self.left.remove("max_completion_tokens").or(old)
    }

    /// Where an answer ends, as a list.
    pub(crate) fn stops(&mut self) -> Option<Value> {
        match self.left.remove("stop")? {
            Value::String(stop) => Some(vec![stop].into()),
            stops => Some(stops),
        }
    }

    /// What the protocol has no word for is refused; what is left goes as it is.
    pub(crate) fn rest(self, protocol: &str, into: &mut Map<String, Value>) -> Result<()> {
        let unknown: Vec<&str> =
            OPENAI_WORDS.iter().copied().filter(|word| self.left.contains_key(*word)).collect();
        if !unknown.is_empty() {
            let detail = format!("{protocol} has no {}", unknown.join(", "));
            return Err(Error::new(Code::ModelRejected, detail));
        }
        into.extend(self.left);
        Ok(())
    }
}

/// The arguments of a call as the object that they should be.
pub(crate) fn arguments(text: &str) -> Result<Value> {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) | Err(_) => Err(Error::new(
            Code::ModelRejected,
            "the arguments of a tool call in the conversation are not a JSON object",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_move_or_are_refused() {
        let given = json!({"temperature": 1, "stop": "x", "max_tokens": 5, "top_k": 3,
            "messages": [], "top_p": null});
        let mut parameters = Parameters::of(given.as_object().unwrap(), &["messages"]);
        let mut body = Map::new();
        parameters.to("temperature", &mut body, "t");
        assert_eq!(parameters.tokens_max(), Some(json!(5)));
        assert_eq!(parameters.stops(), Some(json!(["x"])));
        parameters.rest("it", &mut body).unwrap();
        assert_eq!(Value::Object(body), json!({"t": 1, "top_k": 3}));
        let given = json!({"seed": 1, "logit_bias": {}});
        let parameters = Parameters::of(given.as_object().unwrap(), &[]);
        let error = parameters.rest("it", &mut Map::new()).unwrap_err();
        assert_eq!(
            (error.code, &*error.detail),
            (Code::ModelRejected, "it has no logit_bias, seed")
        );
    }

    #[test]
    fn arguments_are_an_object() {
        assert_eq!(arguments("{\"a\":1}").unwrap(), json!({"a": 1}));
        for text in ["", "[]", "{", "1"] {
            assert!(arguments(text).is_err(), "{text}");
        }
    }
}
