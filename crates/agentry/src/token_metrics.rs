//! What became of an identity provider's tokens and keys, as metrics; the gateway keeps
//! the counts.

use agentry_gateway::{Metrics, Tokens};

use crate::figures;

/// Adds the counts of tokens to the metrics.
pub(crate) fn register(metrics: &Metrics, tokens: Tokens) {
    figures::register(metrics, move |to| {
        let of = tokens.activity();
        to.counter("tokens_remembered", "Tokens whose check was remembered", of.remembered)?;
        to.counter("tokens_checked", "Tokens that were checked and taken", of.checked)?;
        to.counter("tokens_refused", "Tokens that were refused", of.refused)?;
        let help = "Times that the provider's keys were read";
        to.counter("tokens_keys_fetched", help, of.fetched)?;
        let help = "Times that the provider's keys could not be read";
        to.counter("tokens_keys_fetches_failed", help, of.fetches_failed)
    });
}
