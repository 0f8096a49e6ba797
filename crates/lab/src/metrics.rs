//! What the target says of itself, in Prometheus' text format (version 0.0.4),
//! read once a second on the run's own time axis, by a thread of its own: a
//! target that is slow to say it delays nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::connection::{Ask, Connection, Wire};
use crate::http1::Keep;
use crate::run_file::Metrics;
use crate::timers::Timers;
use crate::transport::Connector;
use crate::worker::Told;

/// The largest answer that is read, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Series that are kept; further ones are counted.
const SERIES_MAX: usize = 512;
/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// From one reading to the next.
const EVERY: Duration = Duration::from_secs(1);

/// What is read, and how.
pub(crate) struct Scrape {
    pub(crate) address: SocketAddr,
    pub(crate) connector: Connector,
    /// The whole request.
    pub(crate) request: Vec<u8>,
    /// Beginnings of names; all when empty, but for histograms' buckets.
    pub(crate) series: Vec<String>,
    pub(crate) started: Instant,
}

impl Scrape {
    /// Reads until `over` turns true, or nobody listens. Once more at the end,
    /// so that the last second is there.
    pub(crate) fn run(
        self,
        told: &mpsc::Sender<Told>,
        mut over: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let timers = Timers::new()?;
            let wire = Wire::new(self.address, self.connector.clone());
            tokio::select! {
                ended = timers.drive() => ended,
                () = self.read_on(&wire, told, &timers, &mut over) => Ok(()),
            }
        })
    }

    async fn read_on(
        &self,
        wire: &Wire,
        told: &mpsc::Sender<Told>,
        timers: &Timers,
        over: &mut watch::Receiver<bool>,
    ) {
        let mut connection = Connection::default();
        let mut before = BTreeMap::new();
        for second in 0.. {
            let due = self.started + EVERY * second;
            let ended = tokio::select! {
                () = timers.sleep_until(due) => false,
                // Whoever could say so is gone: over as well.
                _ = over.wait_for(|over| *over) => true,
            };
            if Instant::now() > due + EVERY && !ended {
                // A slow target is asked when it can be, not twice as often.
                continue;
            }
            let read = self.read_once(wire, &mut connection, &mut before).await;
            if told.send(Told::Metrics(Box::new(read))).await.is_err() || ended {
                return;
            }
        }
    }

    async fn read_once(
        &self,
        wire: &Wire,
        connection: &mut Connection,
        before: &mut BTreeMap<String, f64>,
    ) -> Metrics {
        let ask = Ask {
            request: &self.request,
            head: false,
            keep: Keep { headers: false, body_bytes: BODY_BYTES_MAX },
            stream: None,
            timeout: TIMEOUT,
        };
        let exchange = connection.exchange(wire, ask).await;
        let at = exchange.done.saturating_duration_since(self.started).as_secs_f64();
        let failed = |fault: String| Metrics { at, fault: Some(fault), ..Metrics::default() };
        if let Some(failure) = exchange.failure {
            return failed(format!("{} {}", failure.class, failure.detail).trim().to_owned());
        }
        if exchange.answer.status != 200 {
            return failed(format!("status {}", exchange.answer.status));
        }
        if exchange.answer.body_bytes > exchange.answer.body.len() as u64 {
            return failed("more than 4 MiB".to_owned());
        }
        let text = String::from_utf8_lossy(&exchange.answer.body);
        let (now, not_kept) = read(&text, &self.series);
        let changed = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
        let series = changed.map(|(name, value)| (name.clone(), *value)).collect();
        *before = now;
        Metrics { at, series, not_kept, fault: None }
    }
}

/// Values by series, and how many found no room. What is no number (`NaN`,
/// infinities) is left out.
fn read(text: &str, wanted: &[String]) -> (BTreeMap<String, f64>, u64) {
    let (mut series, mut not_kept) = (BTreeMap::new(), 0);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = split(line) else { continue };
        let base = name.split('{').next().unwrap_or_default();
        let kept = match wanted {
            [] => !base.ends_with("_bucket"),
            wanted => wanted.iter().any(|start| name.starts_with(start.as_str())),
        };
        if !kept || !value.is_finite() {
            continue;
        }
        if series.len() == SERIES_MAX && !series.contains_key(name) {
            not_kept += 1;
        } else {
            series.insert(name.to_owned(), value);
        }
    }
    (series, not_kept)
}

/// A name with its labels, which may hold spaces and braces in quotes, and the
/// value after it; a time stamp may follow.
fn split(line: &str) -> Option<(&str, f64)> {
    let (mut quoted, mut escaped, mut inside) = (false, false, false);
    let end = line.char_indices().find_map(|(at, c)| {
        if escaped {
            escaped = false;
            return None;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' if !quoted => inside = true,
            '}' if !quoted => inside = false,
            c if c.is_whitespace() && !quoted && !inside => return Some(at),
            _ => {}
        }
        None
    })?;
    let value = line[end..].split_whitespace().next()?;
    Some((&line[..end], value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\n# TYPE x counter\nx 3\n\
        http_requests_total{method=\"GET\",path=\"/a b}\\\"c\"} 1027 1395066363000\n\
        lag_bucket{le=\"0.1\"} 4\nlag_sum 1.5e-3\nnothing NaN\nbroken\n";

    #[test]
    fn series_are_read_with_their_labels() {
        let (series, not_kept) = read(TEXT, &[]);
        let get = "http_requests_total{method=\"GET\",path=\"/a b}\\\"c\"}".to_owned();
        let all = [(get.clone(), 1027.0), ("lag_sum".to_owned(), 0.0015), ("x".to_owned(), 3.0)];
        assert_eq!((series, not_kept), (all.into(), 0));
        let (series, _) = read(TEXT, &["http_".to_owned(), "lag_bucket".to_owned()]);
        assert_eq!(series.len(), 2);
    }

    #[test]
    fn series_are_bounded() {
        let text: String = (0..SERIES_MAX + 3).map(|n| format!("x{{n=\"{n}\"}} 1\n")).collect();
        let (series, not_kept) = read(&text, &[]);
        assert_eq!((series.len(), not_kept), (SERIES_MAX, 3));
    }
}
