//! Thresholds: `agent_run.p95 < 50ms`, `errors < 0.1%`, `all.rate > 200/s`.

use super::pieces::Reader;
use crate::units;
use crate::yaml::Node;

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slo {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) subject: Subject,
    pub(crate) measure: Measure,
    pub(crate) below: bool,
    /// Seconds, a share from 0 to 1, or per second.
    pub(crate) limit: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    All,
    Endpoint(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    /// Of response times, from 0 to 1.
    Quantile(f64),
    Mean,
    Max,
    Errors,
    Rate,
}

const MEASURES: &[(&str, Measure)] = &[
    ("p99.9", Measure::Quantile(0.999)),
    ("p99", Measure::Quantile(0.99)),
    ("p95", Measure::Quantile(0.95)),
    ("p90", Measure::Quantile(0.9)),
    ("p75", Measure::Quantile(0.75)),
    ("p50", Measure::Quantile(0.5)),
    ("mean", Measure::Mean),
    ("max", Measure::Max),
    ("errors", Measure::Errors),
    ("rate", Measure::Rate),
];

pub(super) fn read(reader: &mut Reader, node: &Node, endpoints: &[String]) -> Vec<Slo> {
    let items = reader.list(node, "`slo`").iter();
    items.filter_map(|item| reader.parsed(item, |text| parse(text, endpoints))).collect()
}

pub(super) fn parse(text: &str, endpoints: &[String]) -> Result<Slo, String> {
    let (left, below, right) = match (text.split_once('<'), text.split_once('>')) {
        (Some((left, right)), None) => (left.trim(), true, right.trim()),
        (None, Some((left, right))) => (left.trim(), false, right.trim()),
        _ => return Err(format!("`{text}` is no threshold such as `agent_run.p95 < 50ms`")),
    };
    let found = MEASURES.iter().find_map(|(name, measure)| {
        let subject = left.strip_suffix(name)?;
        match subject {
            "" => Some(("all", *measure)),
            _ => Some((subject.strip_suffix('.')?, *measure)),
        }
    });
    let Some((subject, measure)) = found else {
        let known: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        return Err(format!("`{left}` ends in no measure: {}", known.join(", ")));
    };
    let subject = match subject {
        "all" => Subject::All,
        name if endpoints.iter().any(|known| known == name) => Subject::Endpoint(name.to_owned()),
        name => {
            let known = endpoints.join(", ");
            return Err(format!("there is no endpoint `{name}`: all, {known}"));
        }
    };
    let limit = match measure {
        Measure::Errors => units::share(right)?,
        Measure::Rate => units::rate(right)?,
        _ => units::duration(right)?.as_secs_f64(),
    };
    Ok(Slo { text: text.trim().to_owned(), subject, measure, below, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        let endpoints = ["chat".to_owned(), "a.b".to_owned()];
        let one = |text: &str| {
            let slo = parse(text, &endpoints)?;
            Ok::<_, String>((slo.subject, slo.measure, slo.below, slo.limit))
        };
        let chat = || Subject::Endpoint("chat".to_owned());
        assert_eq!(one("chat.p99.9 < 50ms"), Ok((chat(), Measure::Quantile(0.999), true, 0.05)));
        assert_eq!(one("errors < 0.1%"), Ok((Subject::All, Measure::Errors, true, 0.001)));
        assert_eq!(one("all.rate > 200/s"), Ok((Subject::All, Measure::Rate, false, 200.0)));
        assert_eq!(
            one("a.b.mean < 1s"),
            Ok((Subject::Endpoint("a.b".to_owned()), Measure::Mean, true, 1.0))
        );
        for wrong in ["", "chat.p95", "chat.p42 < 1s", "nobody.p95 < 1s", "errors < 5ms"] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
    }
}
