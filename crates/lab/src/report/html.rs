//! One file that a browser shows without a network.

use std::collections::BTreeMap;

use askama::Template;

use super::svg::{Chart, Line, Scale, ticks};
use super::text::{name, rows};
use super::{series, sockets};
use crate::sketch::Sketch;
use crate::summary::{Point, SocketPoint, Summary};
use crate::units::{show_bytes, show_count, show_rate, show_seconds, show_share};
use crate::verdict::{Exit, Threshold, Verdict};

/// Classes of errors that get a line of their own in the chart.
const ERROR_LINES: [&str; 4] = ["e1", "e2", "e3", "e4"];
/// Failed answers that are shown.
const SAMPLES_SHOWN: usize = 20;
/// Rows of the table of errors; the most frequent.
const ERRORS_SHOWN: usize = 300;
/// What of a scenario's text is shown, in bytes; the run file has it whole.
const SCENARIO_BYTES_SHOWN: usize = 64 << 10;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: String,
    result: &'static str,
    result_class: &'static str,
    sentence: &'static str,
    verdict: &'a Verdict,
    thresholds: &'a [Threshold],
    facts: Vec<(&'static str, String)>,
    charts: Vec<(String, String, String)>,
    series_charts: Vec<(String, String, String)>,
    series_left_out: usize,
    series: Vec<[String; 5]>,
    series_not_listed: usize,
    socket_times: Vec<sockets::Times>,
    sockets: Vec<Vec<sockets::Cell>>,
    teardown: Vec<(u64, String, bool)>,
    torn: Option<&'a crate::run_file::Teardown>,
    rows: Vec<Vec<String>>,
    streams: Vec<Vec<String>>,
    errors: Vec<(String, String, u64)>,
    samples: Vec<SampleRow>,
    acknowledged: Vec<(&'static str, u64, bool)>,
    acknowledged_paths: &'a [String],
    conditions: Vec<(&'static str, String)>,
    command: &'a str,
    scenario_text: &'a str,
    scenario_cut: bool,
}

struct SampleRow {
    at: String,
    endpoint: String,
    class: String,
    detail: String,
    body: String,
}

/// # Errors
/// Only a fault of the template.
pub(super) fn html(summary: &Summary, verdict: &Verdict) -> Result<String, askama::Error> {
    let header = &summary.header;
    let exit = verdict.exit();
    let (series_charts, series_left_out) = series_charts(summary);
    let (series, series_not_listed) = series::listed(summary);
    let scenario = &header.scenario_text;
    let scenario = &scenario[..scenario.floor_char_boundary(SCENARIO_BYTES_SHOWN)];
    Page {
        title: format!("{} ({})", header.scenario, header.profile),
        // Nothing was asked for that could have been passed.
        result: match exit {
            Exit::Pass if verdict.thresholds.is_empty() => "valid",
            exit => exit.word(),
        },
        result_class: match exit {
            Exit::Pass => "good",
            Exit::Broken | Exit::Invalid => "bad",
        },
        sentence: match exit {
            Exit::Pass if verdict.thresholds.is_empty() => {
                "The figures can be trusted. Whether they are good was not asked: there were no \
                 thresholds."
            }
            Exit::Pass => "The run is valid and every threshold held.",
            Exit::Broken => "The run is valid; the target did not keep what was asked of it.",
            Exit::Invalid if summary.all.count() == 0 => "Nothing was measured.",
            Exit::Invalid => {
                "These figures say nothing about the target: the generator could not keep up. Give \
                 it CPUs of its own that nothing else uses, or ask for less, and run it again."
            }
        },
        verdict,
        thresholds: &verdict.thresholds,
        facts: facts(summary),
        charts: charts(summary),
        series_charts,
        series_left_out,
        series,
        series_not_listed,
        socket_times: sockets::times(summary),
        sockets: sockets::deliveries(summary),
        teardown: teardown(summary),
        torn: summary.end.as_ref().and_then(|end| end.teardown.as_ref()),
        rows: table(summary),
        streams: streams(summary),
        errors: errors(summary),
        samples: samples(summary),
        acknowledged: acknowledged(summary),
        acknowledged_paths: summary.acknowledged().map_or(&[], |audit| &audit.lost_paths),
        conditions: conditions(summary),
        command: &header.command,
        scenario_text: scenario,
        scenario_cut: scenario.len() < header.scenario_text.len(),
    }
    .render()
}

fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let response = &summary.all.ok.response;
    let time = |q: f64| {
        if response.is_empty() { "-".to_owned() } else { show_seconds(response.quantile(q)) }
    };
    let mut facts = vec![
        ("requests", show_count(summary.all.count())),
        ("offered", show_rate(summary.offered_rate())),
        ("achieved", show_rate(summary.rate())),
        ("succeeded", show_rate(summary.goodput())),
        ("errors", show_share(summary.error_share())),
        ("p50", time(0.5)),
        ("p95", time(0.95)),
        ("p99", time(0.99)),
    ];
    if let Some(cpus) = summary.target_cpus() {
        facts.push(("target's CPUs", format!("{cpus:.2}")));
    }
    facts
}

/// Title, what it shows, the drawing.
fn charts(summary: &Summary) -> Vec<(String, String, String)> {
    let mut charts: Vec<(&str, &str, String)> = vec![
        (
            "Rate",
            "Offered counts iterations, which may have several requests.",
            rate_chart(summary),
        ),
        (
            "Response time over the run",
            "Each second by itself, of answers that succeeded.",
            time_chart(summary),
        ),
        (
            "Percentiles",
            "Response time counts from when a request was intended; service time from when it was \
             sent. Where they part, requests waited for a free connection.",
            percentile_chart(summary),
        ),
    ];
    if !summary.errors.is_empty() {
        charts.push(("Errors by class", "Each second by itself.", error_chart(summary)));
    }
    if summary.timeline.iter().any(|point| point.target.is_some()) {
        charts.push((
            "The target's CPUs",
            "1 is one CPU in full use.",
            target_chart(
                summary,
                "The target's CPUs",
                "lines-1",
                |used, point| used.cpu_seconds / point.seconds,
                &show_cpus,
            ),
        ));
        charts.push((
            "The target's memory",
            "Resident.",
            target_chart(
                summary,
                "The target's memory",
                "lines-2",
                |used, _| used.resident_bytes as f64,
                &show_bytes,
            ),
        ));
        charts.push((
            "The target's descriptors",
            "Open files and sockets.",
            target_chart(
                summary,
                "The target's descriptors",
                "lines-3",
                |used, _| used.descriptors as f64,
                &|value| format!("{value:.0}"),
            ),
        ));
    }
    let mut charts: Vec<(String, String, String)> = charts
        .into_iter()
        .map(|(title, about, drawn)| (title.to_owned(), about.to_owned(), drawn))
        .collect();
    // What the target itself used stands last, beside its own metrics.
    let own = charts.iter().position(|(title, ..)| title.starts_with("The target"));
    let at = own.unwrap_or(charts.len());
    charts.splice(at..at, socket_charts(summary));
    charts
}

/// Without the zeros that say nothing.
fn show_cpus(cpus: f64) -> String {
    let text = format!("{cpus:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn seconds_ticks(summary: &Summary) -> Vec<(f64, String)> {
    let last = summary.timeline.last().map_or(1, |point| point.second + 1);
    // In steps of seconds, and no labels past the end.
    let shown = ticks(last as f64).into_iter().filter(|tick| *tick <= last as f64);
    shown.map(|tick| (tick, format!("{tick} s"))).collect()
}

/// The whole of the warm-up, to be shaded.
fn warmup(summary: &Summary) -> Option<(f64, f64)> {
    let seconds = summary.header.warmup_seconds;
    (seconds > 0.0).then_some((0.0, seconds))
}

/// A point of a second stands at its end; the last second may be so short that
/// its rate means nothing.
fn line(
    summary: &Summary,
    name: &str,
    class: &'static str,
    value: impl Fn(&Point) -> Option<f64>,
) -> Line {
    const SHORTEST: f64 = 0.25;
    let points = summary.timeline.iter().filter(|point| point.seconds >= SHORTEST);
    let points = points
        .filter_map(|point| Some((point.second as f64 + point.seconds, value(point)?)))
        .collect();
    Line { name: name.to_owned(), class, points }
}

fn rate_chart(summary: &Summary) -> String {
    let rate = |count: u64, point: &Point| Some(count as f64 / point.seconds);
    let lines = [
        line(summary, "offered", "offered", |point| rate(point.offered, point)),
        line(summary, "ended", "ended", |point| rate(point.ok + point.failed, point)),
        line(summary, "failed", "failed", |point| rate(point.failed, point)),
    ];
    Chart {
        title: "Requests per second",
        lines: &lines,
        y_scale: Scale::Linear,
        x_ticks: &seconds_ticks(summary),
        show_y: &show_rate,
        x_last: Some(summary.ran()),
        shaded: warmup(summary),
    }
    .draw()
}

fn time_chart(summary: &Summary) -> String {
    let time = |point: &Point, value: f64| (point.ok > 0).then_some(value);
    let lines = [
        line(summary, "p99", "p99", |point| time(point, point.p99)),
        line(summary, "p95", "p95", |point| time(point, point.p95)),
        line(summary, "p50", "p50", |point| time(point, point.p50)),
    ];
    Chart {
        title: "Response time by second",
        lines: &lines,
        y_scale: Scale::Log,
        x_ticks: &seconds_ticks(summary),
        show_y: &show_seconds,
        x_last: Some(summary.ran()),
        shaded: warmup(summary),
    }
    .draw()
}

/// Percentiles on an axis on which each nine takes the same room.
fn percentile_chart(summary: &Summary) -> String {
    let nines = |q: f64| -(1.0 - q).log10();
    let curve = |sketch: &Sketch| -> Vec<(f64, f64)> {
        // Past 1 - 1/n there is nothing but the largest value.
        let last = (sketch.count().max(2) as f64).log10().min(5.0);
        let steps = 120;
        (0..=steps)
            .map(|step| last * f64::from(step) / f64::from(steps))
            .map(|at| (at, sketch.quantile(1.0 - 10f64.powf(-at))))
            .collect()
    };
    let all = &summary.all.ok;
    let lines = [
        Line { name: "response".to_owned(), class: "response", points: curve(&all.response) },
        Line { name: "service".to_owned(), class: "service", points: curve(&all.service) },
        Line { name: "first byte".to_owned(), class: "first-byte", points: curve(&all.first_byte) },
    ];
    let last = lines[0].points.last().map_or(1.0, |point| point.0);
    let ticks: Vec<(f64, String)> =
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)]
            .into_iter()
            .map(|(label, q)| (nines(q), label.to_owned()))
            .filter(|(at, _)| *at <= last + 1e-9)
            .collect();
    Chart {
        title: "Percentiles of response and service time",
        lines: &lines,
        y_scale: Scale::Log,
        x_ticks: &ticks,
        show_y: &show_seconds,
        x_last: None,
        shaded: None,
    }
    .draw()
}

fn error_chart(summary: &Summary) -> String {
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for point in summary.timeline.iter().filter(|point| !point.warmup) {
        for (class, count) in &point.errors {
            *classes.entry(class).or_default() += count;
        }
    }
    let mut by_count: Vec<(&str, u64)> = classes.into_iter().collect();
    by_count.sort_by_key(|(class, count)| (std::cmp::Reverse(*count), *class));
    let lines: Vec<Line> = by_count
        .iter()
        .zip(ERROR_LINES)
        .map(|((class, count), style)| {
            line(summary, &format!("{class} ({})", show_count(*count)), style, |point| {
                let count = point.errors.get(*class).copied().unwrap_or_default();
                Some(count as f64 / point.seconds)
            })
        })
        .collect();
    Chart {
        title: "Errors per second by class",
        lines: &lines,
        y_scale: Scale::Linear,
        x_ticks: &seconds_ticks(summary),
        show_y: &show_rate,
        x_last: Some(summary.ran()),
        shaded: warmup(summary),
    }
    .draw()
}

/// What came over WebSockets, second by second.
fn socket_charts(summary: &Summary) -> Vec<(String, String, String)> {
    let sockets = || summary.timeline.iter().filter_map(|point| point.socket.as_ref());
    let chart = |title: &str, lines: &[Line], y_scale, show_y: &dyn Fn(f64) -> String| {
        let drawn = Chart {
            title,
            lines,
            y_scale,
            x_ticks: &seconds_ticks(summary),
            show_y,
            x_last: Some(summary.ran()),
            shaded: warmup(summary),
        };
        drawn.draw()
    };
    let mut charts = Vec::new();
    if sockets().any(|socket| socket.lag.is_some()) {
        let lag = |point: &Point| point.socket.as_ref().and_then(|socket| socket.lag);
        let lines = [
            line(summary, "p99", "p99", |point| lag(point).map(|(_, p99)| p99)),
            line(summary, "p50", "p50", |point| lag(point).map(|(p50, _)| p50)),
        ];
        charts.push((
            "Fan-out lag over the run".to_owned(),
            "From the moment that a frame carries to its arrival.".to_owned(),
            chart("Fan-out lag by second", &lines, Scale::Log, &show_seconds),
        ));
    }
    if sockets().any(|socket| socket.frames > 0) {
        let frames = |point: &Point| {
            point.socket.as_ref().map_or(0.0, |socket| socket.frames as f64) / point.seconds
        };
        let lines = [line(summary, "frames", "lines-1", |point| Some(frames(point)))];
        charts.push((
            "Frames".to_owned(),
            "What came over all WebSockets in a second.".to_owned(),
            chart("Frames per second", &lines, Scale::Linear, &show_rate),
        ));
    }
    type Count = fn(&SocketPoint) -> u64;
    let faults: [(&str, &str, Count); 4] = [
        ("lost", "e1", |socket| socket.lost),
        ("doubled", "e2", |socket| socket.doubled),
        ("reordered", "e3", |socket| socket.reordered),
        ("closed by the target", "e4", |socket| socket.closed),
    ];
    let some = faults.into_iter().filter(|(_, _, count)| sockets().any(|socket| count(socket) > 0));
    let lines: Vec<Line> = some
        .map(|(name, class, count)| {
            line(summary, name, class, |point| {
                Some(point.socket.as_ref().map_or(0.0, |socket| count(socket) as f64))
            })
        })
        .collect();
    if !lines.is_empty() {
        charts.push((
            "Faults of delivery".to_owned(),
            "What is missing counts as lost when the run ends.".to_owned(),
            chart("Faults of delivery by second", &lines, Scale::Linear, &|value| {
                show_count(value as u64)
            }),
        ));
    }
    charts
}

/// The target's own metrics, on the same axis; and how many had no room.
fn series_charts(summary: &Summary) -> (Vec<(String, String, String)>, usize) {
    let (families, left_out) = series::families(summary);
    let charts = families.into_iter().map(|family| {
        let styles = ["lines-1", "lines-2", "lines-3", "e3"];
        let lines = family.lines.into_iter().zip(styles);
        let lines: Vec<Line> =
            lines.map(|((name, points), class)| Line { name, class, points }).collect();
        let drawn = Chart {
            title: &family.name,
            lines: &lines,
            y_scale: Scale::Linear,
            x_ticks: &seconds_ticks(summary),
            show_y: &|value| family.unit.show(value),
            x_last: Some(summary.ran()),
            shaded: warmup(summary),
        };
        let more = match family.left_out {
            0 => String::new(),
            more => format!(" The {} that changed most; {more} more changed.", lines.len()),
        };
        // A single line has no legend, which would say its labels.
        let labels = match lines.as_slice() {
            [only] if !only.name.is_empty() => format!(" {}", only.name),
            _ => String::new(),
        };
        (family.name.clone(), format!("{}{more}{labels}", family.shown_as), drawn.draw())
    });
    (charts.collect(), left_out)
}

/// What users took back, how often, and whether it is a fault.
fn teardown(summary: &Summary) -> Vec<(u64, String, bool)> {
    let Some(torn) = summary.end.as_ref().and_then(|end| end.teardown.as_ref()) else {
        return Vec::new();
    };
    let done =
        torn.done_by_step.iter().map(|(step, count)| (*count, format!("done: {step}"), false));
    let failed =
        torn.failed_by_class.iter().map(|(step, count)| (*count, format!("failed: {step}"), true));
    let others = [
        (torn.skipped, "steps with nothing to take back".to_owned(), false),
        (torn.not_done, "users whose turn did not come in time".to_owned(), true),
    ];
    let rows = done.chain(failed).chain(others);
    rows.filter(|(count, ..)| *count > 0).collect()
}

fn target_chart(
    summary: &Summary,
    title: &str,
    class: &'static str,
    value: impl Fn(&crate::run_file::TargetUse, &Point) -> f64,
    show_y: &dyn Fn(f64) -> String,
) -> String {
    let lines = [line(summary, "target", class, |point| {
        point.target.as_ref().map(|used| value(used, point))
    })];
    Chart {
        title,
        lines: &lines,
        y_scale: Scale::Linear,
        x_ticks: &seconds_ticks(summary),
        show_y,
        x_last: Some(summary.ran()),
        shaded: warmup(summary),
    }
    .draw()
}

fn table(summary: &Summary) -> Vec<Vec<String>> {
    rows(summary)
        .into_iter()
        .map(|row| {
            let response = &row.ok.response;
            let time = |seconds: f64| {
                if response.is_empty() { "-".to_owned() } else { show_seconds(seconds) }
            };
            vec![
                row.name.clone(),
                show_count(row.count()),
                show_share(row.error_share()),
                show_rate(summary.rate_of(row)),
                time(response.min()),
                time(response.mean()),
                time(response.quantile(0.5)),
                time(response.quantile(0.9)),
                time(response.quantile(0.95)),
                time(response.quantile(0.99)),
                time(response.quantile(0.999)),
                time(response.max()),
            ]
        })
        .collect()
}

fn streams(summary: &Summary) -> Vec<Vec<String>> {
    let time = |sketch: &Sketch, q: f64| {
        if sketch.is_empty() { "-".to_owned() } else { show_seconds(sketch.quantile(q)) }
    };
    summary
        .endpoints
        .iter()
        .filter_map(|row| Some((row, row.ok.stream.as_ref()?)))
        .map(|(row, stream)| {
            vec![
                row.name.clone(),
                row.ok.count.to_string(),
                time(&stream.first_token, 0.5),
                time(&stream.first_token, 0.99),
                time(&stream.gap, 0.5),
                time(&stream.gap, 0.99),
                time(&stream.time_per_token, 0.5),
                stream.chunks.to_string(),
                stream.tokens.to_string(),
                stream.without_usage.to_string(),
            ]
        })
        .collect()
}

/// The most frequent first.
fn errors(summary: &Summary) -> Vec<(String, String, u64)> {
    let all = summary.errors.iter();
    let mut errors: Vec<(String, String, u64)> = all
        .map(|((endpoint, class), count)| {
            (name(summary, *endpoint).to_owned(), class.clone(), *count)
        })
        .collect();
    errors.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    errors.truncate(ERRORS_SHOWN);
    errors
}

fn samples(summary: &Summary) -> Vec<SampleRow> {
    summary
        .samples
        .iter()
        .take(SAMPLES_SHOWN)
        .map(|sample| SampleRow {
            at: format!("{:.1} s", sample.at),
            endpoint: name(summary, sample.endpoint).to_owned(),
            class: sample.class.clone(),
            detail: sample.detail.clone(),
            body: sample.body.clone(),
        })
        .collect()
}

/// What became of it, how often, and whether it is a fault. Empty where nothing
/// was to be read back.
fn acknowledged(summary: &Summary) -> Vec<(&'static str, u64, bool)> {
    let Some(audit) = summary.acknowledged().filter(|audit| audit.acknowledged > 0) else {
        return Vec::new();
    };
    let rows = [
        ("found as they were sent", audit.found - audit.changed, false),
        ("found, with other fields than were sent", audit.changed, true),
        ("not found: lost", audit.lost, true),
        ("removed, and gone", audit.gone, false),
        ("removed, and found all the same", audit.undone, true),
        ("no answer that tells", audit.unknown, true),
        ("not asked for", audit.not_checked, false),
    ];
    rows.into_iter().filter(|(_, count, _)| *count > 0).collect()
}

fn conditions(summary: &Summary) -> Vec<(&'static str, String)> {
    let header = &summary.header;
    let load = &header.load;
    let means = match load.model.as_str() {
        "open" => "requests begin when they are due, whatever the target does",
        _ => "users wait for each answer before they go on",
    };
    let mut model = format!("{} ({means}): {} users", load.model, load.users);
    if let Some([low, high]) = load.think_seconds
        && high > 0.0
    {
        model += &format!(", pauses of {} to {}", show_seconds(low), show_seconds(high));
    }
    if let Some(ramp) = load.ramp_per_second {
        model += &format!(", {} begin", show_rate(ramp));
    }
    if let Some(arrivals) = &load.arrivals {
        model += &format!(" at most, {arrivals} arrivals");
    }
    for stage in &load.stages {
        let (from, to) = (show_rate(stage.from_per_second), show_rate(stage.to_per_second));
        model += &format!(", {from} to {to} in {}", show_seconds(stage.seconds));
    }
    if let Some(seconds) = load.seconds {
        model += &format!(", for {}", show_seconds(seconds));
    }
    if let Some(iterations) = load.iterations {
        model += &format!(", {iterations} iterations");
    }
    let generator = &summary.generator;
    let machine = &header.machine;
    vec![
        ("target", header.target.clone()),
        ("started", header.started_at.clone()),
        ("load", model),
        (
            "measured",
            format!(
                "{}{}; time-out {}",
                show_seconds(summary.seconds()),
                match header.warmup_seconds {
                    0.0 => String::new(),
                    seconds => format!(", after a warm-up of {}", show_seconds(seconds)),
                },
                show_seconds(header.timeout_seconds)
            ),
        ),
        ("seed, run", format!("{}, {}", header.seed, header.run)),
        (
            "generator",
            format!(
                "lab {}, {} threads, {:.1} us CPU a request, busiest thread {}, waited for a CPU \
                 {}, dispatch lag p50 {} and p99 {}, {} connections made",
                header.lab,
                header.threads,
                generator.cpu_seconds * 1e6 / summary.all.count().max(1) as f64,
                show_share(generator.busiest_thread()),
                show_share(generator.scheduler_delay()),
                show_seconds(generator.dispatch_lag.quantile(0.5)),
                show_seconds(generator.dispatch_lag.quantile(0.99)),
                generator.connects
            ),
        ),
        (
            "machine",
            format!(
                "{}, {} CPUs ({}), {} of memory",
                machine.system,
                machine.cpus,
                machine.cpu_model,
                show_bytes(machine.memory_bytes as f64)
            ),
        ),
    ]
}
