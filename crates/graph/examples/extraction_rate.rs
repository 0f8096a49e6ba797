//! How many episodes a core reads in a second, with a group of 5,000 known names:
//! `cargo run --release -p agentry-graph --example extraction_rate`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use agentry_domain::Timestamp;
use agentry_graph::extract::{Turn, extract};
use agentry_graph::gazetteer::Gazetteer;

const CORPUS: &str = include_str!("../tests/corpus.txt");
const NAMES: u32 = 5_000;
const FOR: Duration = Duration::from_secs(3);

fn main() -> std::io::Result<()> {
    let mut known = Gazetteer::default();
    for nth in 0..NAMES {
        known.add(&format!("Somebody {nth}"));
    }
    let texts: Vec<&str> = CORPUS.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    let (begun, mut episodes, mut bytes, mut facts) = (Instant::now(), 0_u64, 0_usize, 0_usize);
    while begun.elapsed() < FOR {
        for text in &texts {
            let turn = Turn { text, speaker: Some("Ada"), at: Timestamp::from_micros(0) };
            facts += extract(&turn, &known).facts.len();
            (episodes, bytes) = (episodes + 1, bytes + text.len());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let (rate, mean) = (episodes as f64 / seconds, bytes as f64 / episodes as f64);
    writeln!(
        std::io::stdout(),
        "{rate:.0} episodes/s on one core, {mean:.0} bytes each, {facts} facts"
    )
}
