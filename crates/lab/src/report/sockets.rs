//! What came over WebSockets, as every report shows it: times of one table,
//! deliveries of another.

use crate::run_file::{RowKind, SocketInterval};
use crate::sketch::Sketch;
use crate::summary::{EndpointSummary, Summary};
use crate::units::{show_bytes, show_count, show_seconds};

/// What stands over [`times`], and what the times are of.
pub(super) const ABOUT_TIMES: &str = "A handshake is from asking for the socket to its being open, a \
    round trip from a frame to the one that answers it. Fan-out lag is from the moment that a frame \
    carries to its arrival; it is as good as the two clocks. Resuming is from asking to go on to the \
    first frame after that.";
/// The heads of [`times`], after what it is and whose.
pub(super) const TIMES: [&str; 6] = ["count", "p50", "p95", "p99", "p99.9", "max"];
/// The heads of [`deliveries`].
pub(super) const DELIVERIES: [&str; 10] = [
    "socket",
    "frames",
    "bytes",
    "lost",
    "doubled",
    "reordered",
    "opened again",
    "went on",
    "closed by target",
    "not taken",
];
/// What stands over [`deliveries`].
pub(super) const ABOUT_DELIVERIES: &str = "Lost: a number that never came while later ones did. Went \
    on: of the sockets opened again, how many continued with the very number that was due. Not taken: \
    frames that waited for a step until newer ones took their place.";

/// A line of [`times`].
pub(super) struct Times {
    pub(super) what: &'static str,
    pub(super) row: String,
    pub(super) cells: [String; 6],
}

/// One cell of [`deliveries`].
pub(super) struct Cell {
    pub(super) text: String,
    /// It is a fault of the target's.
    pub(super) bad: bool,
}

/// Rows over whose sockets something came.
fn opened(summary: &Summary) -> impl Iterator<Item = (&EndpointSummary, &SocketInterval)> {
    let rows = summary.endpoints.iter();
    rows.filter_map(|row| Some((row, row.ok.socket.as_deref()?)))
}

/// Empty where no socket was opened.
pub(super) fn times(summary: &Summary) -> Vec<Times> {
    let kind = |number: usize| summary.header.rows.get(number).copied();
    let mut found = Vec::new();
    let mut add = |what, row: &EndpointSummary, sketch: &Sketch| {
        if sketch.is_empty() {
            return;
        }
        let quantile = |q| show_seconds(sketch.quantile(q));
        let cells = [
            show_count(sketch.count()),
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            quantile(0.999),
            show_seconds(sketch.max()),
        ];
        found.push(Times { what, row: row.name.clone(), cells });
    };
    for (number, row) in summary.endpoints.iter().enumerate() {
        match kind(number) {
            Some(RowKind::Connect) => add("handshake", row, &row.ok.response),
            // A file that does not say what its rows are.
            None if row.ok.socket.is_some() => add("handshake", row, &row.ok.response),
            Some(RowKind::Reconnect) => add("handshake again", row, &row.ok.response),
            Some(RowKind::RoundTrip) => add("round trip", row, &row.ok.response),
            Some(RowKind::Receive) => add("waited for frames", row, &row.ok.response),
            _ => {}
        }
    }
    for (row, socket) in opened(summary) {
        add("fan-out lag", row, &socket.lag);
        add("resuming", row, &socket.resume);
    }
    found
}

/// A line for each row that opened sockets.
pub(super) fn deliveries(summary: &Summary) -> Vec<Vec<Cell>> {
    let fine = |text: String| Cell { text, bad: false };
    let count = |count: u64| fine(show_count(count));
    let fault = |count: u64| Cell { text: show_count(count), bad: count > 0 };
    let line = |(row, socket): (&EndpointSummary, &SocketInterval)| {
        vec![
            fine(row.name.clone()),
            count(socket.frames),
            fine(show_bytes(socket.bytes as f64)),
            fault(socket.lost),
            fault(socket.doubled),
            fault(socket.reordered),
            count(socket.reconnects),
            count(socket.resumed),
            fault(socket.closed),
            count(socket.forgotten),
        ]
    };
    opened(summary).map(line).collect()
}
