//! What became of an identity provider's tokens and keys, as metrics. Read when
//! asked; the gateway keeps the counts.

use std::fmt;

use agentry_gateway::{Metrics, Tokens};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;

#[derive(Debug)]
struct TokenCollector(Tokens);

impl Collector for TokenCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let activity = self.0.activity();
        let counters = [
            ("tokens_remembered", "Tokens whose check was remembered", activity.remembered),
            ("tokens_checked", "Tokens that were checked and taken", activity.checked),
            ("tokens_refused", "Tokens that were refused", activity.refused),
            ("tokens_keys_fetched", "Times that the provider's keys were read", activity.fetched),
            (
                "tokens_keys_fetches_failed",
                "Times that the provider's keys could not be read",
                activity.fetches_failed,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Adds the counts of tokens to the metrics.
pub(crate) fn register(metrics: &Metrics, tokens: Tokens) {
    metrics.register(|registry| registry.register_collector(Box::new(TokenCollector(tokens))));
}
