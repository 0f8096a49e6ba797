//! How long the mock takes: distributions that are known, drawn from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::dice::Dice;
use crate::units;

/// A distribution of delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always the same; zero answers at once.
    Constant(Duration),
    /// `slow` for `share` of the requests, `fast` for the others.
    Bimodal {
        /// The common delay.
        fast: Duration,
        /// The rare one.
        slow: Duration,
        /// How many are slow, from 0 to 1.
        share: f64,
    },
    /// exp(N(ln median, sigma)): a long tail.
    Lognormal {
        /// Half of the delays are below it.
        median: Duration,
        /// The deviation of the logarithm.
        sigma: f64,
    },
}

/// No delay is longer, whatever the tail draws: one hour.
const DELAY_MAX: Duration = Duration::from_secs(3600);

impl Delay {
    /// The n-th delay.
    pub(crate) fn draw(self, dice: Dice, n: u64) -> Duration {
        match self {
            Self::Constant(delay) => delay,
            Self::Bimodal { fast, slow, share } => {
                if dice.unit(n) < share {
                    slow
                } else {
                    fast
                }
            }
            Self::Lognormal { median, sigma } => {
                let factor = (sigma * dice.normal(n)).exp();
                median.mul_f64(factor.min(DELAY_MAX.as_secs_f64())).min(DELAY_MAX)
            }
        }
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a delay such as none, constant:5ms, bimodal:2ms,50ms,10% or \
                 lognormal:5ms,0.8"
            )
        };
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let parts: Vec<&str> = rest.split(',').collect();
        match (kind, parts.as_slice()) {
            ("none", [""]) => Ok(Self::Constant(Duration::ZERO)),
            ("constant", [delay]) => Ok(Self::Constant(units::duration(delay)?)),
            ("bimodal", [fast, slow, share]) => Ok(Self::Bimodal {
                fast: units::duration(fast)?,
                slow: units::duration(slow)?,
                share: units::share(share)?,
            }),
            ("lognormal", [median, sigma]) => {
                let sigma: f64 = sigma.parse().map_err(|_| wrong())?;
                if !(0.0..=5.0).contains(&sigma) {
                    return Err(format!("sigma is from 0 to 5, not {sigma}"));
                }
                Ok(Self::Lognormal { median: units::duration(median)?, sigma })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(Duration::ZERO) => write!(f, "none"),
            Self::Constant(delay) => write!(f, "constant:{delay:?}"),
            Self::Bimodal { fast, slow, share } => write!(f, "bimodal:{fast:?},{slow:?},{share}"),
            Self::Lognormal { median, sigma } => write!(f, "lognormal:{median:?},{sigma}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_and_shown() {
        for text in ["none", "constant:5ms", "bimodal:2ms,50ms,0.1", "lognormal:5ms,0.8"] {
            assert_eq!(text.parse::<Delay>().map(|delay| delay.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "constant", "constant:5", "bimodal:1ms,2ms", "lognormal:5ms,9", "none:1"]
        {
            assert!(wrong.parse::<Delay>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn draws_have_their_shares_and_their_median() {
        let dice = Dice::new(3, "delays");
        let ms = Duration::from_millis;
        let count = |delay: Delay, below: Duration| {
            (0..100_000).filter(|n| delay.draw(dice, *n) < below).count()
        };
        let bimodal = Delay::Bimodal { fast: ms(2), slow: ms(50), share: 0.1 };
        assert!((89_000..91_000).contains(&count(bimodal, ms(50))));
        let lognormal = Delay::Lognormal { median: ms(5), sigma: 0.8 };
        assert!((49_000..51_000).contains(&count(lognormal, ms(5))));
        // One deviation above the median in the logarithm: 84.1 %.
        let above = ms(5).mul_f64(0.8f64.exp());
        assert!((83_100..85_100).contains(&count(lognormal, above)));
    }
}
