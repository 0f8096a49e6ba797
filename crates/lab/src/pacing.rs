//! When iterations begin in an open load. Arrival times are absolute and follow
//! from (seed, profile, index) alone: the schedule cannot drift, and a run can
//! be replayed.
//!
//! With Λ(t) the integral of the rate, the n-th arrival is at Λ⁻¹(e(n)), where
//! e(n) is n + 1/2 for constant arrivals and a sum of n + 1 exponential draws
//! for Poisson arrivals (time rescaling of an inhomogeneous Poisson process).

use std::time::Duration;

use crate::dice::Dice;
use crate::scenario::{Arrivals, Stage};

/// The arrivals of one run, in order: index and time since the start.
#[derive(Debug)]
pub(crate) struct Schedule {
    stages: Vec<Stage>,
    arrivals: Arrivals,
    dice: Dice,
    index: u64,
    /// Λ at the last arrival drawn.
    expected: f64,
    /// The stage that the last arrival fell in, Λ and the time where it begins.
    stage: usize,
    before: f64,
    begins: f64,
}

impl Schedule {
    pub(crate) fn new(stages: &[Stage], arrivals: Arrivals, seed: u64, profile: &str) -> Self {
        Self {
            stages: stages.to_vec(),
            arrivals,
            dice: Dice::new(seed, "arrivals").fork(Dice::new(seed, profile).bits(0)),
            index: 0,
            expected: 0.0,
            stage: 0,
            before: 0.0,
            begins: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = (u64, Duration);

    fn next(&mut self) -> Option<(u64, Duration)> {
        let index = self.index;
        match self.arrivals {
            Arrivals::Constant => self.expected = index as f64 + 0.5,
            Arrivals::Poisson => self.expected += self.dice.exponential(index),
        }
        loop {
            let stage = *self.stages.get(self.stage)?;
            let lasts = stage.lasts.as_secs_f64();
            let within = (stage.from + stage.to) / 2.0 * lasts;
            if self.expected < self.before + within {
                let at = self.begins + reaches(stage, self.expected - self.before);
                self.index += 1;
                return Some((index, Duration::from_secs_f64(at)));
            }
            self.before += within;
            self.begins += lasts;
            self.stage += 1;
        }
    }
}

/// The time into the stage at which its integral reaches `wanted`: the root of
/// slope/2 t² + from t = wanted, in the form that does not cancel.
fn reaches(stage: Stage, wanted: f64) -> f64 {
    let slope = (stage.to - stage.from) / stage.lasts.as_secs_f64();
    let root = (stage.from * stage.from + 2.0 * slope * wanted).max(0.0).sqrt();
    if stage.from + root == 0.0 { 0.0 } else { 2.0 * wanted / (stage.from + root) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(from: f64, to: f64, seconds: u64) -> Stage {
        Stage { from, to, lasts: Duration::from_secs(seconds) }
    }

    fn times(stages: &[Stage], arrivals: Arrivals, seed: u64) -> Vec<f64> {
        Schedule::new(stages, arrivals, seed, "p").map(|(_, at)| at.as_secs_f64()).collect()
    }

    #[test]
    fn constant_arrivals_are_exact_and_do_not_drift() {
        let times = times(&[stage(1000.0, 1000.0, 3600)], Arrivals::Constant, 1);
        assert_eq!(times.len(), 3_600_000);
        for (n, at) in times.iter().enumerate() {
            assert!((at - (n as f64 + 0.5) / 1000.0).abs() < 2e-9, "{n} {at}");
        }
    }

    #[test]
    fn stages_have_as_many_arrivals_as_their_integral() {
        let stages = [stage(0.0, 100.0, 10), stage(300.0, 300.0, 5), stage(300.0, 0.0, 4)];
        let times = times(&stages, Arrivals::Constant, 1);
        let between =
            |low: f64, high: f64| times.iter().filter(|at| (low..high).contains(*at)).count();
        assert_eq!(
            (between(0.0, 10.0), between(10.0, 15.0), between(15.0, 19.0)),
            (500, 1500, 600)
        );
        assert_eq!(between(0.0, 5.0), 125, "a quarter of the area of a ramp");
        assert!(times.is_sorted());
    }

    #[test]
    fn poisson_arrivals_are_poisson_and_replayable() {
        let stages = [stage(100.0, 100.0, 1000)];
        let first = times(&stages, Arrivals::Poisson, 5);
        assert_eq!(first, times(&stages, Arrivals::Poisson, 5));
        assert_ne!(first, times(&stages, Arrivals::Poisson, 6));
        // 100,000 expected, deviation 316.
        assert!((first.len() as f64 - 100_000.0).abs() < 4.0 * 316.0, "{}", first.len());
        let mut counts = vec![0.0f64; 1000];
        for at in &first {
            counts[at.floor() as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1000.0;
        let variance = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 1000.0;
        assert!((0.85..1.15).contains(&(variance / mean)), "{variance} / {mean}");
    }
}
