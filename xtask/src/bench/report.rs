//! What a bench found, as data and as a table for people.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// A figure of each round, and what stands for them all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rounds {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// All of them, in order.
    pub each: Vec<f64>,
}

impl Rounds {
    /// From the figures of at least one round.
    pub fn new(each: Vec<f64>) -> Self {
        let mut sorted = each.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let at = |nth: usize| sorted.get(nth).copied().unwrap_or(f64::NAN);
        let median = (at(last / 2) + at(last.div_ceil(2))) / 2.0;
        Self { median, min: at(0), max: at(last), each }
    }
}

/// One kind of work on one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Target and work.
    pub name: String,
    /// Open at a time, each waiting for its answer before it asks again.
    pub connections: u32,
    /// Requests per second.
    pub rate: Rounds,
    /// Latency that half of all requests did not exceed.
    pub p50_micros: u64,
    /// Latency that 99 of 100 requests did not exceed.
    pub p99_micros: u64,
    /// CPU time of the server's processes for a request.
    pub server_cpu_micros: f64,
    /// CPU time of the database's processes for a request, when they are apart.
    pub database_cpu_micros: Option<f64>,
    /// CPU time of the generator for a request.
    pub generator_cpu_micros: f64,
    /// Requests that failed, warm-ups included.
    pub failed: u64,
    /// Requests of all rounds, without the warm-ups.
    pub requests: u64,
}

/// The rate of one case over that of another, round by round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// The case above the line.
    pub of: String,
    /// The case below the line.
    pub to: String,
    /// The ratios.
    pub ratio: Rounds,
    /// The server's CPU time for a request below the line over that above it: how
    /// many times as many requests a second of its CPU answers, the database and
    /// the generator left out.
    #[serde(default)]
    pub per_cpu_second: Option<f64>,
    /// What the median must reach.
    pub floor: Option<f64>,
    /// Whether it does, with no failed request in either.
    pub holds: Option<bool>,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Processors.
    pub cpus: usize,
    /// What they call themselves.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// The file system under SQLite's files.
    pub data_file_system: String,
    /// The file system under PostgreSQL's files.
    pub postgres_file_system: String,
    /// The median time of an fdatasync after 4 KiB, beside SQLite's files.
    pub sync_micros: u64,
}

/// Everything that one bench found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Seconds since 1970.
    pub at: u64,
    /// What was measured, as git names it.
    pub commit: String,
    /// The profile of the build.
    pub profile: String,
    /// Where.
    pub machine: Machine,
    /// Milliseconds that a slice measures.
    pub slice_ms: u64,
    /// The cases.
    pub cases: Vec<Measured>,
    /// The ratios.
    pub ratios: Vec<Ratio>,
}

impl Report {
    /// Whether every floor holds.
    pub fn holds(&self) -> bool {
        self.ratios.iter().all(|ratio| ratio.holds != Some(false))
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} x {}, {}; data on {}, fdatasync {} us; PostgreSQL on {}; {} build of {}\n",
            machine.cpus,
            machine.cpu,
            machine.kernel,
            machine.data_file_system,
            machine.sync_micros,
            machine.postgres_file_system,
            self.profile,
            self.commit,
        );
        let _ = writeln!(
            text,
            "{:<26} {:>5} {:>10} {:>9} {:>9} {:>8} {:>8} {:>8} {:>7}",
            "case", "conns", "req/s", "p50 us", "p99 us", "cpu us", "db us", "lab us", "failed"
        );
        for case in &self.cases {
            let database =
                case.database_cpu_micros.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
            let _ = writeln!(
                text,
                "{:<26} {:>5} {:>10.0} {:>9} {:>9} {:>8.1} {:>8} {:>8.1} {:>7}",
                case.name,
                case.connections,
                case.rate.median,
                case.p50_micros,
                case.p99_micros,
                case.server_cpu_micros,
                database,
                case.generator_cpu_micros,
                case.failed,
            );
        }
        let _ = writeln!(
            text,
            "\n{:<26} {:<26} {:>8} {:>17} {:>9} {:>6}",
            "of", "to", "median", "range", "per cpu s", "floor"
        );
        for Ratio { of, to, ratio, per_cpu_second, floor, holds } in &self.ratios {
            let range = format!("{:.3} - {:.3}", ratio.min, ratio.max);
            let floor = floor.map_or_else(|| "-".to_owned(), |floor| floor.to_string());
            let cpu = per_cpu_second.map_or_else(|| "-".to_owned(), |times| format!("{times:.2}"));
            let verdict = match holds {
                Some(true) => "holds",
                Some(false) => "BELOW",
                None => "",
            };
            let _ = writeln!(
                text,
                "{of:<26} {to:<26} {:>8.3} {range:>17} {cpu:>9} {floor:>6} {verdict}",
                ratio.median
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        for (each, expected) in [
            (vec![4.0], (4.0, 4.0, 4.0)),
            (vec![3.0, 1.0, 2.0], (2.0, 1.0, 3.0)),
            (vec![4.0, 1.0, 2.0, 9.0], (3.0, 1.0, 9.0)),
        ] {
            let rounds = Rounds::new(each);
            assert_eq!((rounds.median, rounds.min, rounds.max), expected);
        }
    }
}
