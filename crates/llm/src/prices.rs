//! What tokens cost, as the installation's owner configured it. Nothing is known of
//! a model that is not configured, and nothing is guessed: prices change, and a
//! wrong sum is worse than none.

use std::collections::BTreeMap;

use agentry_domain::runs::Usage;

/// The price of a model's tokens, in any one currency, per million.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of a token read.
    pub input: f64,
    /// Of a token read out of the provider's cache; like any other when absent.
    #[serde(default)]
    pub cached_input: Option<f64>,
    /// Of a token written.
    pub output: f64,
}

/// The prices of a provider's models, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// `None` when one is no price.
    pub(crate) fn new(prices: &BTreeMap<String, Price>) -> Option<Self> {
        let is_price = |price: f64| price.is_finite() && (0.0..1e9).contains(&price);
        let all = prices.values().all(|price| {
            is_price(price.input)
                && is_price(price.output)
                && price.cached_input.is_none_or(is_price)
        });
        all.then(|| Self(prices.clone()))
    }

    /// A usage with its cost, when the model's price and both counts are known.
    pub(crate) fn priced(&self, model: &str, usage: Usage) -> Usage {
        let cost = || {
            let price = self.0.get(model)?;
            let (input, output) = (usage.input_tokens?, usage.output_tokens?);
            let cached = usage.cached_input_tokens.unwrap_or(0).min(input);
            let cached_price = price.cached_input.unwrap_or(price.input);
            Some(
                nanos(input - cached, price.input)
                    .saturating_add(nanos(cached, cached_price))
                    .saturating_add(nanos(output, price.output)),
            )
        };
        Usage { cost_nanos: cost(), ..usage }
    }
}

/// Billionths: a token at 1 per million is a millionth.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "prices are bounded and not negative, and a cast saturates"
)]
fn nanos(tokens: u64, per_million: f64) -> u64 {
    (tokens as f64 * per_million * 1_000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, cached: Option<u64>, output: u64) -> Usage {
        Usage {
            input_tokens: Some(input),
            cached_input_tokens: cached,
            output_tokens: Some(output),
            cost_nanos: None,
        }
    }

    #[test]
    fn tokens_cost_what_is_configured_and_nothing_is_guessed() {
        let price = Price { input: 0.25, cached_input: Some(0.025), output: 2.0 };
        let plain = Price { cached_input: None, ..price };
        let named = BTreeMap::from([("m".to_owned(), price), ("n".to_owned(), plain)]);
        let prices = Prices::new(&named).unwrap();
        let cost = |model: &str, usage: Usage| prices.priced(model, usage).cost_nanos;
        assert_eq!(cost("m", usage(1_000, None, 10)), Some(250_000 + 20_000));
        assert_eq!(cost("m", usage(1_000, Some(400), 10)), Some(150_000 + 10_000 + 20_000));
        assert_eq!(cost("n", usage(1_000, Some(400), 10)), Some(270_000));
        assert_eq!(cost("m", usage(1, None, 0)), Some(250));
        assert_eq!(cost("other", usage(1, None, 1)), None);
        assert_eq!(cost("m", Usage { input_tokens: None, ..usage(1, None, 1) }), None);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for input in [-1.0, f64::NAN, f64::INFINITY] {
            let price = Price { input, cached_input: None, output: 1.0 };
            assert!(Prices::new(&BTreeMap::from([("m".to_owned(), price)])).is_none(), "{input}");
        }
    }
}
