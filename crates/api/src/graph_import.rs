//! Imports over HTTP: JSON lines, read as they arrive. What is wrong with a line is
//! found by the same fields that single nodes and edges are read by.

use std::time::Instant;

use agentry_domain::graph::{GRAPH_KIND_CHARS_MAX, GroupId, IMPORT_LINE_BYTES_MAX, NodeBody};
use agentry_domain::{Code, Error, Fault, Result, named};
use agentry_engine::{ImportItem, ImportLine, ImportReport, LineFault};
use agentry_gateway::{Authenticated, body};
use axum::body::Body;
use axum::extract::{Request, State};
use bytes::{Buf as _, Bytes};
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::{Handled, json};
use crate::extract::{Query, idempotency_key, parse};
use crate::fields::{Fields, FromFields, ResourceFields};
use crate::graph::{GroupQuery, milliseconds};
use crate::graph_edges::weight;
use crate::state::ApiState;

/// What JSON lines are called.
const MEDIA_TYPES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json-lines",
];

named! {
    /// What a line is.
    enum LineType {
        /// A node.
        Node = "node",
        /// An edge.
        Edge = "edge",
    }
}

/// What a line says.
struct Line(ImportLine);

impl FromFields for Line {
    fn read(fields: &mut Fields) -> Self {
        let line = match fields.choice("type").required() {
            LineType::Node => ImportLine::Node(NodeBody::fields(fields, None)),
            LineType::Edge => ImportLine::Edge {
                from: fields.external_id("from").required(),
                to: fields.external_id("to").required(),
                kind: fields.text("kind", 1..=GRAPH_KIND_CHARS_MAX).required(),
                weight: weight(fields, None),
                properties: fields.own_object("properties", None),
            },
        };
        Self(line)
    }
}

/// What is wrong with a line.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphImportFault)]
pub struct LineFaultAnswer<'a> {
    /// Its number, from 1.
    line: u64,
    /// A JSON pointer into it.
    pointer: &'a str,
    /// A short stable word, such as `required`.
    code: &'static str,
    /// What is wrong.
    detail: &'a str,
}

/// How many nodes there were.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphImportNodes)]
pub struct NodeCounts {
    /// New ones.
    created: u64,
    /// Those whose key was there, and that have changed.
    updated: u64,
    /// Those that were there just so.
    unchanged: u64,
}

/// How many edges there were.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphImportEdges)]
pub struct EdgeCounts {
    /// New ones.
    created: u64,
    /// Those that were there, whether they have changed or not.
    existing: u64,
}

/// What came of an import.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraphImported)]
pub struct ImportAnswer<'a> {
    /// Its id, the entity of the events that tell of it.
    #[schema(value_type = String, format = "uuid")]
    import_id: Uuid,
    /// The group.
    group_id: &'a str,
    /// Lines that said something.
    lines: u64,
    /// Writes in which they were stored, each as a whole or not at all.
    batches: u64,
    /// Nodes.
    nodes: NodeCounts,
    /// Edges.
    edges: EdgeCounts,
    /// Lines that were left out.
    bad_lines: u64,
    /// What is wrong with the first of them, at most 1,000 faults.
    errors: Vec<LineFaultAnswer<'a>>,
    /// How long it took, in milliseconds.
    execution_time_ms: f64,
}

impl<'a> ImportAnswer<'a> {
    fn new(report: &'a ImportReport, group: &'a GroupId, begun: Instant) -> Self {
        let fault = |LineFault { line, fault }: &'a LineFault| LineFaultAnswer {
            line: *line,
            pointer: &fault.pointer,
            code: fault.code,
            detail: &fault.detail,
        };
        Self {
            import_id: Uuid::from_bytes(report.id),
            group_id: group.as_str(),
            lines: report.lines,
            batches: report.batches,
            nodes: NodeCounts {
                created: report.nodes_created,
                updated: report.nodes_updated,
                unchanged: report.nodes_unchanged,
            },
            edges: EdgeCounts { created: report.edges_created, existing: report.edges_existing },
            bad_lines: report.bad_lines,
            errors: report.faults.iter().map(fault).collect(),
            execution_time_ms: milliseconds(begun),
        }
    }
}

/// Import nodes and edges
///
/// The body has one JSON object in each line. A node is
/// `{"type":"node","key":"k1","kind":"function","name":"main"}` with the fields of `POST /graph/nodes`;
/// an edge is `{"type":"edge","from":"k1","to":"k2","kind":"calls"}` with the fields of
/// `POST /graph/edges`, and its ends are keys, or ids, of nodes that are in the group or in a line
/// before it.
///
/// It is stored as it arrives, in batches of 1,000 lines or 1 MiB, each as a whole or not at all. A line
/// that cannot be stored is left out and reported. A node whose key is there is changed, and so is an
/// edge of a kind between nodes that have one; so an import can be sent again. Events of the entity
/// `graph` tell how far it is.
#[utoipa::path(
    post,
    path = "/api/v1/graph/import",
    tag = "graph",
    params(GroupQuery),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, description = "What came of it.", body = ImportAnswer<'static>)),
)]
pub async fn graph_import(
    State(state): State<ApiState>,
    Authenticated(caller): Authenticated,
    Query(GroupQuery(group)): Query<GroupQuery>,
    request: Request,
) -> Handled {
    let begun = Instant::now();
    check_media_type(request.headers())?;
    if idempotency_key(request.headers())?.is_some() {
        let detail =
            "an import can be sent again as it is: nodes with keys, and edges, are there once";
        return Err(Error::not_supported("header:Idempotency-Key", detail).into());
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let bytes_total = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let lines = Box::pin(items(request.into_body()));
    let report = state.engine.graph_import(&caller, &group, bytes_total, lines).await?;
    json(StatusCode::OK, &ImportAnswer::new(&report, &group, begun))
}

fn check_media_type(headers: &HeaderMap) -> Result<()> {
    let sent = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence = sent.and_then(|sent| sent.split(';').next()).unwrap_or_default().trim();
    if MEDIA_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    let detail = match sent {
        Some(sent) => format!("Content-Type must be {}, not {sent}", MEDIA_TYPES[0]),
        None => format!("Content-Type is missing; it must be {}", MEDIA_TYPES[0]),
    };
    Err(Error::new(Code::UnsupportedMediaType, detail))
}

/// A body's lines, each read.
fn items(body: Body) -> impl Stream<Item = Result<ImportItem>> + Send {
    let state = (body, Lines::default());
    stream::try_unfold(state, |(mut body, mut lines)| async move {
        loop {
            if let Some(item) = lines.next() {
                return Ok(Some((item, (body, lines))));
            }
            if lines.ended {
                return Ok(None);
            }
            match body::next(&mut body).await? {
                Some(part) => lines.arrive(part),
                None => lines.ended = true,
            }
        }
    })
}

/// Cuts what arrives into lines. Of a line that is too long nothing is kept.
#[derive(Default)]
struct Lines {
    /// What has arrived and is not cut yet.
    part: Bytes,
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
    /// How long the line is so far, when it is too long.
    too_long: usize,
    /// The number of the last line.
    line: u64,
    ended: bool,
}

impl Lines {
    fn arrive(&mut self, part: Bytes) {
        self.part = part;
    }

    /// The next line that says something, if all of it has arrived.
    fn next(&mut self) -> Option<ImportItem> {
        loop {
            if let Some(end) = self.part.iter().position(|byte| *byte == b'\n') {
                let last = self.part.split_to(end);
                self.part.advance(1);
                self.begin(&last);
            } else {
                let rest = std::mem::take(&mut self.part);
                self.begin(&rest);
                if !self.ended || (self.begun.is_empty() && self.too_long == 0) {
                    return None;
                }
            }
            if let Some(item) = self.finish() {
                return Some(item);
            }
        }
    }

    fn begin(&mut self, bytes: &[u8]) {
        if self.too_long == 0 && self.begun.len() + bytes.len() <= IMPORT_LINE_BYTES_MAX {
            self.begun.extend_from_slice(bytes);
        } else {
            self.too_long = self.too_long.max(self.begun.len()) + bytes.len();
            self.begun.clear();
        }
    }

    /// The line whose end has arrived; none when nothing stands in it.
    fn finish(&mut self) -> Option<ImportItem> {
        self.line += 1;
        let line = self.line;
        if self.too_long > 0 {
            let bytes = std::mem::take(&mut self.too_long);
            let detail = format!("a line may have {IMPORT_LINE_BYTES_MAX} bytes");
            let said = Err(vec![Fault::new("", "too_long", detail)]);
            return Some(ImportItem { line, bytes, said });
        }
        let text = self.begun.trim_ascii();
        if text.is_empty() {
            self.begun.clear();
            return None;
        }
        let said = parse::<Line>(text).map(|Line(said)| said).map_err(faults);
        let bytes = self.begun.len();
        self.begun.clear();
        Some(ImportItem { line, bytes, said })
    }
}

/// What is wrong with a line, of which each fault names a field, or none when it is
/// no JSON.
fn faults(error: Error) -> Vec<Fault> {
    match error.faults {
        none if none.is_empty() => vec![Fault::new("", error.code.as_str(), error.detail)],
        faults => faults,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of what arrives in these parts: their numbers, and whether each is
    /// good.
    fn cut(parts: &[&str]) -> Vec<(u64, bool)> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for part in parts {
            lines.arrive(Bytes::copy_from_slice(part.as_bytes()));
            while let Some(item) = lines.next() {
                found.push((item.line, item.said.is_ok()));
            }
        }
        lines.ended = true;
        while let Some(item) = lines.next() {
            found.push((item.line, item.said.is_ok()));
        }
        found
    }

    const NODE: &str = r#"{"type":"node","name":"n"}"#;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let text = format!("{NODE}\n\n \r\n{NODE}\r\n{{}}\n{NODE}");
        let expected = [(1, true), (4, true), (5, false), (6, true)];
        assert_eq!(cut(&[&text]), expected);
        for at in 1..text.len() {
            assert_eq!(cut(&[&text[..at], &text[at..]]), expected, "{at}");
        }
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&["\n", "\n"]), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_one_bad_line() {
        let long = "x".repeat(IMPORT_LINE_BYTES_MAX);
        let expected = [(1, false), (2, true)];
        assert_eq!(cut(&[&long, "y\n", NODE]), expected);
        assert_eq!(cut(&[&format!("{long}{long}\n{NODE}\n")]), expected);
        assert_eq!(cut(&[&long, &long]), [(1, false)]);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_by_field() {
        let of = |line: &str| {
            let faults = parse::<Line>(line.as_bytes()).map(|_| ()).map_err(faults).unwrap_err();
            let told = |fault: Fault| format!("{} {}", fault.pointer, fault.code);
            faults.into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(of("{"), [" malformed_json"]);
        assert_eq!(of("[]"), [" wrong_type"]);
        assert_eq!(of(r#"{"type":"comet"}"#)[0], "/type not_allowed");
        assert_eq!(
            of(r#"{"type":"node","name":7,"aliases":["",1]}"#),
            ["/name wrong_type", "/aliases/0 too_short", "/aliases/1 wrong_type"]
        );
        assert_eq!(
            of(r#"{"type":"edge","from":"a","kind":"k","weight":"x"}"#),
            ["/to required", "/weight wrong_type"]
        );
        assert_eq!(of(r#"{"type":"node","name":"a\u0000"}"#), ["/name nul"]);
    }
}
