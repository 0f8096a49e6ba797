//! Randomness as a function: the n-th draw of a stream follows from (seed,
//! stream, n) alone, so that a run can be replayed and threads need not agree.
//!
//! SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
//! Generators, 2014) over a counter. Not for secrets.

/// One stream of draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice {
    key: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64, stream: &str) -> Self {
        // FNV-1a: names of streams need to differ, nothing more.
        let name = stream
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        Self { key: mix(mix(seed) ^ name) }
    }

    /// A stream of its own for each `index`.
    pub(crate) fn fork(self, index: u64) -> Self {
        Self { key: mix(self.key ^ mix(index.wrapping_add(GOLDEN))) }
    }

    /// The n-th draw, all 64 bits.
    pub(crate) fn bits(self, n: u64) -> u64 {
        mix(self.key.wrapping_add(n.wrapping_mul(GOLDEN)))
    }

    /// The n-th draw, evenly in [0, 1).
    pub(crate) fn unit(self, n: u64) -> f64 {
        (self.bits(n) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The n-th draw of the exponential distribution with mean 1.
    pub(crate) fn exponential(self, n: u64) -> f64 {
        -(1.0 - self.unit(n)).ln()
    }

    /// The n-th draw of the normal distribution with mean 0 and deviation 1
    /// (Box and Muller).
    pub(crate) fn normal(self, n: u64) -> f64 {
        let (radius, turn) = (1.0 - self.unit(2 * n), self.unit(2 * n + 1));
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }
}

const PRIME: u64 = 0x0000_0100_0000_01b3;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_from_seed_stream_and_index() {
        let dice = Dice::new(42, "arrivals");
        assert_eq!(dice.bits(7), Dice::new(42, "arrivals").bits(7));
        assert_ne!(dice.bits(7), Dice::new(43, "arrivals").bits(7));
        assert_ne!(dice.bits(7), Dice::new(42, "mix").bits(7));
        assert_ne!(dice.fork(1).bits(7), dice.fork(2).bits(7));
    }

    #[test]
    fn distributions_have_their_moments() {
        let dice = Dice::new(1, "moments");
        let n = 200_000;
        let mean = |draw: &dyn Fn(u64) -> f64| (0..n).map(draw).sum::<f64>() / n as f64;
        assert!((mean(&|i| dice.unit(i)) - 0.5).abs() < 0.005);
        assert!((mean(&|i| dice.exponential(i)) - 1.0).abs() < 0.01);
        assert!(mean(&|i| dice.normal(i)).abs() < 0.01);
        assert!((mean(&|i| dice.normal(i).powi(2)) - 1.0).abs() < 0.02);
    }
}
