//! What the target said of itself, made ready to be drawn on the run's time
//! axis: counters as rates, pairs of a sum and a count as means, anything else
//! as it stands.

use std::collections::{BTreeMap, BTreeSet};

use crate::summary::Summary;
use crate::units::{show_bytes, show_count, show_seconds};

/// Charts that are drawn; what changed most often comes first.
const CHARTS_MAX: usize = 12;
/// Lines of one chart; those that changed most.
pub(super) const LINES_MAX: usize = 4;
/// Series that changed and are listed.
pub(super) const LISTED_MAX: usize = 200;
/// From one reading to the next at least, in seconds.
const SHORTEST: f64 = 0.25;
/// Characters of a name that are shown.
const NAME_MAX: usize = 120;

/// Series of one name.
pub(super) struct Family {
    pub(super) name: String,
    pub(super) shown_as: &'static str,
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Further series that changed less.
    pub(super) left_out: usize,
    pub(super) unit: Unit,
    /// Times that its busiest series changed.
    activity: usize,
}

/// What the name says that the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
    PerSecond,
    BytesPerSecond,
    Number,
}

impl Unit {
    fn of(name: &str, rate: bool) -> Self {
        match (rate, name.contains("_bytes"), name.contains("_seconds")) {
            (true, true, _) => Self::BytesPerSecond,
            (true, false, _) => Self::PerSecond,
            (false, true, _) => Self::Bytes,
            (false, false, true) => Self::Seconds,
            (false, false, false) => Self::Number,
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Bytes => show_bytes(value),
            Self::Seconds => show_seconds(value),
            Self::PerSecond => format!("{}/s", show_number(value)),
            Self::BytesPerSecond => format!("{}/s", show_bytes(value)),
            Self::Number => show_number(value),
        }
    }
}

/// Whole numbers in groups, others with what matters of them.
fn show_number(value: f64) -> String {
    if value.fract() == 0.0 && (0.0..1e15).contains(&value) {
        return show_count(value as u64);
    }
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

/// How one series goes over the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// Of a sum and a count, what one more brought.
    Mean,
    Rate,
    Value,
}

type Points = Vec<(f64, f64)>;

/// A series, ready to be drawn.
struct Drawn {
    labels: String,
    points: Points,
    /// How often it changed.
    changes: usize,
}

/// Name and labels.
fn split(series: &str) -> (&str, &str) {
    match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or(labels)),
        None => (series, ""),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The last reading follows the one before it as soon as the load has ended; a
/// rate over so short a time means nothing, so it takes that one's place.
fn spaced(moments: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    for moment in moments {
        match kept.last_mut() {
            Some(last) if moment - *last < SHORTEST => *last = moment,
            _ => kept.push(moment),
        }
    }
    kept
}

/// The changes of a series, as its value at every moment that was read.
fn at_all_moments(changes: &[(f64, f64)], moments: &[f64]) -> Points {
    let mut changes = changes.iter().peekable();
    let mut value = None;
    let mut points = Vec::new();
    for moment in moments {
        while let Some((_, changed)) = changes.next_if(|(at, _)| at <= moment) {
            value = Some(*changed);
        }
        points.extend(value.map(|value| (*moment, value)));
    }
    points
}

/// From each moment to the next; a counter that went back began anew, and says
/// nothing of that time.
fn rates(points: &[(f64, f64)]) -> Points {
    let steps = points.windows(2).filter(|pair| pair[1].1 >= pair[0].1 && pair[1].0 > pair[0].0);
    steps.map(|pair| (pair[1].0, (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0))).collect()
}

/// Only where the count grew is there a mean.
fn means(sums: &[(f64, f64)], counts: &[(f64, f64)]) -> Points {
    let mut sums = sums.iter().peekable();
    let mut both = Vec::new();
    for (at, count) in counts {
        while sums.next_if(|(other, _)| other < at).is_some() {}
        both.extend(sums.next_if(|(other, _)| other == at).map(|(_, sum)| (*at, *sum, *count)));
    }
    let steps = both.windows(2).filter(|pair| pair[1].2 > pair[0].2 && pair[1].1 >= pair[0].1);
    steps.map(|pair| (pair[1].0, (pair[1].1 - pair[0].1) / (pair[1].2 - pair[0].2))).collect()
}

fn changed(summary: &Summary) -> impl Iterator<Item = (&String, &Points)> {
    // The first reading is no change.
    summary.series.iter().filter(|(_, points)| points.len() > 1)
}

/// What is drawn, and how many names there was no room for.
pub(super) fn families(summary: &Summary) -> (Vec<Family>, usize) {
    let moments: BTreeSet<u64> =
        // Times are positive, so their bits are in their order.
        summary.series.values().flatten().map(|(at, _)| at.to_bits()).collect();
    let moments = spaced(moments.into_iter().map(f64::from_bits));
    let mut families: BTreeMap<(String, Shape), Vec<Drawn>> = BTreeMap::new();
    for (series, changes) in changed(summary) {
        let (name, labels) = split(series);
        let points = at_all_moments(changes, &moments);
        let mut add = |name: &str, shape, points: Points| {
            if !points.is_empty() {
                let lines = families.entry((name.to_owned(), shape)).or_default();
                let labels = shortened(labels);
                lines.push(Drawn { labels, points, changes: changes.len() });
            }
        };
        let with = |base: &str, end: &str| {
            summary.series.get(&series.replacen(name, &format!("{base}{end}"), 1))
        };
        if let Some(base) = name.strip_suffix("_count")
            && let Some(sums) = with(base, "_sum")
        {
            add(base, Shape::Mean, means(&at_all_moments(sums, &moments), &points));
            add(name, Shape::Rate, rates(&points));
        } else if name.strip_suffix("_sum").is_some_and(|base| with(base, "_count").is_some()) {
            // Drawn with its count.
        } else if ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end)) {
            add(name, Shape::Rate, rates(&points));
        } else {
            add(name, Shape::Value, points);
        }
    }
    let mut drawn: Vec<Family> = families.into_iter().map(family).collect();
    drawn.sort_by_key(|family| std::cmp::Reverse(family.activity));
    let left_out = drawn.len().saturating_sub(CHARTS_MAX);
    drawn.truncate(CHARTS_MAX);
    (drawn, left_out)
}

fn family(((name, shape), mut lines): ((String, Shape), Vec<Drawn>)) -> Family {
    lines.sort_by(|one, other| {
        other.changes.cmp(&one.changes).then_with(|| one.labels.cmp(&other.labels))
    });
    let activity = lines.first().map_or(0, |line| line.changes);
    let left_out = lines.len().saturating_sub(LINES_MAX);
    lines.truncate(LINES_MAX);
    let shown_as = match shape {
        Shape::Mean => "Mean of what came in each second.",
        Shape::Rate => "A counter, as its growth in a second.",
        Shape::Value => "As it was read.",
    };
    let unit = Unit::of(&name, shape == Shape::Rate);
    let lines = lines.into_iter().map(|line| (line.labels, line.points)).collect();
    Family { name: shortened(&name), shown_as, lines, left_out, unit, activity }
}

/// What changed: series, first, last, least and most value.
pub(super) fn listed(summary: &Summary) -> (Vec<[String; 5]>, usize) {
    let all = changed(summary).count();
    let rows = changed(summary).take(LISTED_MAX).map(|(series, points)| {
        let unit = Unit::of(split(series).0, false);
        let values = || points.iter().map(|(_, value)| *value);
        let show = |value: Option<f64>| value.map_or_else(String::new, |value| unit.show(value));
        [
            shortened(series),
            show(values().next()),
            show(values().next_back()),
            show(values().reduce(f64::min)),
            show(values().reduce(f64::max)),
        ]
    });
    (rows.collect(), all.saturating_sub(LISTED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_become_values_rates_and_means_at_every_moment() {
        let moments = [0.0, 1.0, 2.0, 4.0];
        let counts = at_all_moments(&[(0.0, 10.0), (2.0, 30.0), (4.0, 34.0)], &moments);
        assert_eq!(counts, [(0.0, 10.0), (1.0, 10.0), (2.0, 30.0), (4.0, 34.0)]);
        assert_eq!(rates(&counts), [(1.0, 0.0), (2.0, 20.0), (4.0, 2.0)]);
        let sums = at_all_moments(&[(0.0, 1.0), (2.0, 11.0), (4.0, 13.0)], &moments);
        assert_eq!(means(&sums, &counts), [(2.0, 0.5), (4.0, 0.5)]);
        // It began anew.
        assert_eq!(rates(&[(0.0, 5.0), (1.0, 0.0), (2.0, 3.0)]), [(2.0, 3.0)]);
        assert_eq!(spaced([0.0, 1.0, 2.0, 2.01].into_iter()), [0.0, 1.0, 2.01]);
        // What was not there yet is not drawn.
        assert_eq!(at_all_moments(&[(2.0, 7.0)], &moments), [(2.0, 7.0), (4.0, 7.0)]);
    }

    #[test]
    fn values_are_shown_in_the_unit_of_their_name() {
        let show = |name: &str, rate: bool, value: f64| Unit::of(name, rate).show(value);
        assert_eq!(show("process_resident_memory_bytes", false, 2.5e6), "2.5 MB");
        assert_eq!(show("http_request_duration_seconds", false, 0.002), "2.00 ms");
        assert_eq!(show("requests_total", true, 1200.0), "1,200/s");
        assert_eq!(show("sent_bytes_total", true, 1200.0), "1.2 kB/s");
        assert_eq!(show("connections", false, 7.0), "7");
        assert_eq!(show("load", false, 0.25), "0.2500");
    }
}
