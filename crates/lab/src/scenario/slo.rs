//! Thresholds: `agent_run.p95 < 50ms`, `errors < 0.1%`, `all.rate > 200/s`, and
//! of WebSockets `setup.follow.lag_p99 < 20ms`, `sockets.lost = 0`.

use super::pieces::Reader;
use super::sockets::Tracking;
use crate::units;
use crate::yaml::Node;

/// What rows of what happens once for each user are called at the end. A
/// threshold may leave it out.
const ONCE: &str = " (initial)";
/// The subject that stands for all WebSockets together.
const SOCKETS: &str = "sockets";

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slo {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) subject: Subject,
    pub(crate) measure: Measure,
    comparison: Comparison,
    /// Seconds, a share from 0 to 1, per second, or a count.
    limit: f64,
}

impl Slo {
    pub(crate) fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            // Only counts are asked so, and they are whole numbers.
            Comparison::Is => value == self.limit,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    All,
    Endpoint(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    Response(Figure),
    /// Of a WebSocket's frames, from the moment that each carries.
    Lag(Figure),
    /// From asking to go on to the first frame after that.
    Resume(Figure),
    Errors,
    Rate,
    Socket(SocketCount),
}

impl Measure {
    /// Whether it is of what came over WebSockets.
    pub(crate) fn is_of_sockets(self) -> bool {
        matches!(self, Self::Lag(_) | Self::Resume(_) | Self::Socket(_))
    }
}

/// Of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// From 0 to 1.
    Quantile(f64),
    Mean,
    Max,
}

/// See [`crate::run_file::SocketInterval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketCount {
    Frames,
    Lost,
    Doubled,
    Reordered,
    Reconnects,
    Resumed,
    Closed,
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
    Is,
}

/// The longer first.
const COMPARISONS: &[(&str, Comparison)] = &[
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Below),
    (">", Comparison::Above),
    ("=", Comparison::Is),
];

const FIGURES: &[(&str, Figure)] = &[
    ("p99.9", Figure::Quantile(0.999)),
    ("p99", Figure::Quantile(0.99)),
    ("p95", Figure::Quantile(0.95)),
    ("p90", Figure::Quantile(0.9)),
    ("p75", Figure::Quantile(0.75)),
    ("p50", Figure::Quantile(0.5)),
    ("mean", Figure::Mean),
    ("max", Figure::Max),
];

type OfFigure = fn(Figure) -> Measure;

/// What times are of, by what stands before the figure.
const TIMES: &[(&str, OfFigure)] =
    &[("lag_", Measure::Lag), ("resume_", Measure::Resume), ("", Measure::Response)];

const COUNTS: &[(&str, Measure)] = &[
    ("errors", Measure::Errors),
    ("rate", Measure::Rate),
    ("frames", Measure::Socket(SocketCount::Frames)),
    ("lost", Measure::Socket(SocketCount::Lost)),
    ("doubled", Measure::Socket(SocketCount::Doubled)),
    ("reordered", Measure::Socket(SocketCount::Reordered)),
    ("reconnects", Measure::Socket(SocketCount::Reconnects)),
    ("resumed", Measure::Socket(SocketCount::Resumed)),
    ("closed", Measure::Socket(SocketCount::Closed)),
    ("forgotten", Measure::Socket(SocketCount::Forgotten)),
];

/// The rows that a threshold may be of.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) names: &'a [String],
    /// By row, what comes over the socket that it opens is held against. None
    /// when a run file is read: its thresholds were checked before the run.
    pub(super) sockets: Option<&'a [Option<Tracking>]>,
}

pub(super) fn read(reader: &mut Reader, node: &Node, rows: Rows<'_>) -> Vec<Slo> {
    let items = reader.list(node, "`slo`").iter();
    items.filter_map(|item| reader.parsed(item, |text| parse(text, rows))).collect()
}

pub(super) fn parse(text: &str, rows: Rows<'_>) -> Result<Slo, String> {
    let split = COMPARISONS.iter().find_map(|(sign, comparison)| {
        let (left, right) = text.split_once(sign)?;
        Some((left.trim(), *comparison, right.trim()))
    });
    let Some((left, comparison, right)) = split.filter(|(left, _, right)| {
        // One comparison alone.
        !left.contains(['<', '>', '=']) && !right.contains(['<', '>', '='])
    }) else {
        return Err(format!("`{text}` is no threshold such as `agent_run.p95 < 50ms`"));
    };
    let Some((subject, measure)) = measure(left) else {
        let counts = COUNTS.iter().map(|(name, _)| *name);
        let known: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).chain(counts).collect();
        return Err(format!(
            "`{left}` ends in no measure: {}; of a WebSocket also lag_p99 or resume_p99 and their \
             like",
            known.join(", ")
        ));
    };
    let subject = subject_of(subject, measure, rows)?;
    if measure.is_of_sockets() {
        can_be_told(&subject, measure, rows)?;
    }
    let limit = match measure {
        Measure::Errors => units::share(right)?,
        Measure::Rate => units::rate(right)?,
        Measure::Socket(_) => match right.parse::<u32>() {
            Ok(count) => f64::from(count),
            Err(_) => return Err(format!("`{right}` is no whole number, and `{left}` counts")),
        },
        Measure::Response(_) | Measure::Lag(_) | Measure::Resume(_) => {
            units::duration(right)?.as_secs_f64()
        }
    };
    if comparison == Comparison::Is && !matches!(measure, Measure::Socket(_)) {
        return Err(format!("`{left}` is never exactly so; `=` goes with counts"));
    }
    Ok(Slo { text: text.trim().to_owned(), subject, measure, comparison, limit })
}

/// What stands before the measure, and the measure.
fn measure(left: &str) -> Option<(&str, Measure)> {
    let counts = COUNTS.iter().map(|(name, measure)| ("", *name, *measure));
    let times = FIGURES
        .iter()
        .flat_map(|(name, figure)| TIMES.iter().map(|(before, of)| (*before, *name, of(*figure))));
    times.chain(counts).find_map(|(before, name, measure)| {
        let subject = left.strip_suffix(name)?.strip_suffix(before)?;
        match subject {
            "" => Some(("all", measure)),
            _ => Some((subject.strip_suffix('.')?, measure)),
        }
    })
}

fn subject_of(name: &str, measure: Measure, rows: Rows<'_>) -> Result<Subject, String> {
    let known = |name: &str| rows.names.iter().find(|known| *known == name).cloned();
    if name == "all" {
        return Ok(Subject::All);
    }
    if let Some(name) = known(name).or_else(|| known(&format!("{name}{ONCE}"))) {
        return Ok(Subject::Endpoint(name));
    }
    if name == SOCKETS && measure.is_of_sockets() {
        return Ok(Subject::All);
    }
    Err(format!("there is no endpoint `{name}`: all, {}", rows.names.join(", ")))
}

/// A threshold that nothing could break or keep is a fault of the scenario.
fn can_be_told(subject: &Subject, measure: Measure, rows: Rows<'_>) -> Result<(), String> {
    let Some(sockets) = rows.sockets else { return Ok(()) };
    let opened = || {
        let named = rows.names.iter().zip(sockets);
        named.filter_map(|(name, socket)| Some((name, socket.as_ref()?)))
    };
    let (shown, ours): (&str, Vec<&Tracking>) = match subject {
        Subject::All => (SOCKETS, opened().map(|(_, socket)| socket).collect()),
        Subject::Endpoint(name) => {
            (name, opened().filter(|(opens, _)| *opens == name).map(|(_, socket)| socket).collect())
        }
    };
    if ours.is_empty() {
        let opening: Vec<&str> = opened().map(|(name, _)| name.as_str()).collect();
        return Err(match opening.as_slice() {
            [] => "no step opens a WebSocket".to_owned(),
            opening => format!("`{shown}` opens no WebSocket; {} does", opening.join(", ")),
        });
    }
    let (told, why): (fn(&Tracking) -> bool, &str) = match measure {
        Measure::Lag(_) => (|socket| socket.time, "`track` needs `time` to tell it"),
        Measure::Resume(_) => (|socket| socket.goes_on, "`connect` needs `again` or `resume`"),
        Measure::Socket(SocketCount::Resumed) => (
            |socket| socket.goes_on && socket.seq,
            "`connect` needs `again` or `resume`, and `track` needs `seq`",
        ),
        Measure::Socket(SocketCount::Lost | SocketCount::Doubled | SocketCount::Reordered) => {
            (|socket| socket.seq, "`track` needs `seq` to tell it")
        }
        _ => return Ok(()),
    };
    if ours.into_iter().any(told) { Ok(()) } else { Err(format!("of `{shown}` {why}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P99: Figure = Figure::Quantile(0.99);

    #[test]
    fn thresholds_are_read() {
        let names = ["chat", "a.b", "feed (initial)"].map(str::to_owned);
        let all = Tracking { seq: true, time: true, goes_on: true };
        let sockets = [None, None, Some(all)];
        let rows = Rows { names: &names, sockets: Some(&sockets) };
        let check = |text: &str, subject: &str, measure: Measure, holds: f64, breaks: f64| {
            let slo = parse(text, rows).unwrap();
            let expected = match subject {
                "" => Subject::All,
                name => Subject::Endpoint(name.to_owned()),
            };
            assert_eq!((&slo.subject, slo.measure), (&expected, measure), "{text}");
            assert!(slo.holds(holds) && !slo.holds(breaks), "{text}");
        };
        let (response, lag, count) = (Measure::Response, Measure::Lag, Measure::Socket);
        check("chat.p99.9 < 50ms", "chat", response(Figure::Quantile(0.999)), 0.049, 0.05);
        check("errors < 0.1%", "", Measure::Errors, 0.0009, 0.001);
        check("all.rate >= 200/s", "", Measure::Rate, 200.0, 199.9);
        check("a.b.mean < 1s", "a.b", response(Figure::Mean), 0.9, 1.0);
        check("feed.p99 <= 1s", "feed (initial)", response(P99), 1.0, 1.1);
        check("feed.lag_p99 < 20ms", "feed (initial)", lag(P99), 0.019, 0.02);
        check("feed (initial).lag_max < 1s", "feed (initial)", lag(Figure::Max), 0.9, 1.0);
        check("lag_p99.9 < 1s", "", lag(Figure::Quantile(0.999)), 0.9, 1.0);
        check("feed.resume_p99 < 1s", "feed (initial)", Measure::Resume(P99), 0.9, 1.0);
        check("sockets.lost = 0", "", count(SocketCount::Lost), 0.0, 1.0);
        check("doubled <= 2", "", count(SocketCount::Doubled), 2.0, 3.0);
        check("feed.frames > 100", "feed (initial)", count(SocketCount::Frames), 101.0, 100.0);
    }

    #[test]
    fn what_cannot_be_told_is_a_fault() {
        let names = ["chat", "feed", "bare"].map(str::to_owned);
        let feed = Tracking { seq: true, ..Tracking::default() };
        let sockets = [None, Some(feed), Some(Tracking::default())];
        let fault =
            |text: &str| parse(text, Rows { names: &names, sockets: Some(&sockets) }).unwrap_err();
        for (text, told) in [
            ("", "is no threshold"),
            ("chat.p95", "is no threshold"),
            ("1 < errors < 2", "is no threshold"),
            ("lost == 0", "is no threshold"),
            ("chat.p42 < 1s", "ends in no measure"),
            ("nobody.p95 < 1s", "there is no endpoint `nobody`"),
            ("sockets.p95 < 1s", "there is no endpoint `sockets`"),
            ("errors < 5ms", "is not a share"),
            ("errors = 0", "`=` goes with counts"),
            ("lost < 1%", "is no whole number"),
            ("lost = -1", "is no whole number"),
            ("chat.lost = 0", "`chat` opens no WebSocket; feed, bare does"),
            ("bare.lost = 0", "`track` needs `seq`"),
            ("feed.lag_p99 < 1s", "`track` needs `time`"),
            ("sockets.resumed > 1", "needs `again` or `resume`"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(told), "{text}: {fault}");
        }
        let none = parse("lost = 0", Rows { names: &names, sockets: Some(&[None, None, None]) });
        assert_eq!(none.unwrap_err(), "no step opens a WebSocket");
    }
}
