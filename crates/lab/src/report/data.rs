//! The reports for programs: JSON, CSV and JUnit.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::text::{name, rows};
use crate::sketch::Sketch;
use crate::summary::{EndpointSummary, Summary};
use crate::verdict::Verdict;

/// The quantiles of every report, with their names.
pub(super) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999)];

/// Times are in seconds, rates per second.
pub(super) fn json(summary: &Summary, verdict: &Verdict) -> Value {
    let header = &summary.header;
    let generator = &summary.generator;
    let thresholds: Vec<Value> = verdict
        .thresholds
        .iter()
        .map(|threshold| {
            json!({ "text": threshold.text, "value": threshold.value, "holds": threshold.holds })
        })
        .collect();
    let errors: Vec<Value> = summary
        .errors
        .iter()
        .map(|((endpoint, class), count)| {
            json!({ "endpoint": name(summary, *endpoint), "class": class, "count": count })
        })
        .collect();
    let endpoints = summary.endpoints.iter().filter(|row| row.count() > 0);
    json!({
        "schema": header.schema,
        "scenario": header.scenario,
        "profile": header.profile,
        "target": header.target,
        "started_at": header.started_at,
        "seed": header.seed,
        "command": header.command,
        "load": header.load,
        "machine": header.machine,
        "verdict": {
            "result": verdict.exit().word(),
            "exit_code": verdict.exit().code(),
            "invalid": verdict.invalid,
            "broken": verdict.broken,
            "thresholds": thresholds,
            "limited_by": verdict.limited_by,
            "notes": verdict.notes,
        },
        "seconds": summary.seconds(),
        "offered_per_second": summary.offered_rate(),
        "requests_per_second": summary.rate(),
        "succeeded_per_second": summary.goodput(),
        "error_share": summary.error_share(),
        "all": endpoint(summary, &summary.all),
        "endpoints": endpoints.map(|row| endpoint(summary, row)).collect::<Vec<_>>(),
        "errors": errors,
        "acknowledged": summary.acknowledged(),
        "teardown": summary.end.as_ref().and_then(|end| end.teardown.as_ref()),
        "target_series": summary.series,
        "generator": {
            "threads": header.threads,
            "cpu_seconds": generator.cpu_seconds,
            "cpu_microseconds_per_request":
                generator.cpu_seconds * 1e6 / summary.all.count().max(1) as f64,
            "busiest_thread": generator.busiest_thread(),
            "scheduler_delay": generator.scheduler_delay(),
            "dispatch_lag": times(&generator.dispatch_lag),
            "connections": generator.connects,
            "queue_max": generator.queue_max,
            "shed": generator.shed,
        },
        "target_cpus": summary.target_cpus(),
    })
}

fn endpoint(summary: &Summary, row: &EndpointSummary) -> Value {
    let stream = row.ok.stream.as_ref().map(|stream| {
        json!({
            "first_token": times(&stream.first_token),
            "gap": times(&stream.gap),
            "time_per_token": times(&stream.time_per_token),
            "events": stream.chunks,
            "tokens": stream.tokens,
            "without_usage": stream.without_usage,
        })
    });
    let number = summary.endpoints.iter().position(|other| other.name == row.name);
    json!({
        "name": row.name,
        "kind": number.and_then(|number| summary.header.rows.get(number)),
        "requests": row.count(),
        "failed": row.failed.count,
        "error_share": row.error_share(),
        "requests_per_second": summary.rate_of(row),
        "body_bytes": row.ok.body_bytes,
        "different_bodies": row.ok.bodies,
        "response": times(&row.ok.response),
        "service": times(&row.ok.service),
        "first_byte": times(&row.ok.first_byte),
        "failed_response": times(&row.failed.response),
        "stream": stream,
        "socket": row.ok.socket.as_ref().map(|socket| json!({
            "frames": socket.frames,
            "bytes": socket.bytes,
            "lag": times(&socket.lag),
            "resume": times(&socket.resume),
            "lost": socket.lost,
            "doubled": socket.doubled,
            "reordered": socket.reordered,
            "reconnects": socket.reconnects,
            "resumed": socket.resumed,
            "closed": socket.closed,
            "forgotten": socket.forgotten,
        })),
    })
}

fn times(sketch: &Sketch) -> Value {
    if sketch.is_empty() {
        return Value::Null;
    }
    let mut times = json!({
        "count": sketch.count(),
        "min": sketch.min(),
        "mean": sketch.mean(),
        "max": sketch.max(),
    });
    for (name, q) in QUANTILES {
        times[name] = sketch.quantile(q).into();
    }
    times
}

/// A row for each endpoint and one for all; times in milliseconds.
pub(super) fn csv(summary: &Summary) -> String {
    let mut out = "endpoint,requests,failed,requests_per_second,min_ms,mean_ms".to_owned();
    for (name, _) in QUANTILES {
        // Writing to a String cannot fail.
        let _ = write!(out, ",{name}_ms");
    }
    out.push_str(",max_ms,service_p50_ms,service_p99_ms,body_bytes");
    out.push_str(",frames,lag_p50_ms,lag_p99_ms,lag_max_ms,lost,doubled,reordered");
    out.push_str(",reconnects,resumed,resume_p99_ms,closed,forgotten\n");
    for row in rows(summary) {
        let response = &row.ok.response;
        let name = row.name.replace('"', "\"\"");
        let rate = summary.rate_of(row);
        let _ = write!(out, "\"{name}\",{},{},{rate:.3}", row.count(), row.failed.count);
        let mut times = vec![response.min(), response.mean()];
        times.extend(QUANTILES.map(|(_, q)| response.quantile(q)));
        times.extend([response.max(), row.ok.service.quantile(0.5), row.ok.service.quantile(0.99)]);
        for seconds in times {
            if response.is_empty() {
                out.push(',');
            } else {
                let _ = write!(out, ",{:.4}", seconds * 1e3);
            }
        }
        let _ = write!(out, ",{}", row.ok.body_bytes);
        let _ = writeln!(out, ",{}", socket_cells(row).join(","));
    }
    out
}

/// Empty where no socket was opened.
fn socket_cells(row: &EndpointSummary) -> [String; 12] {
    let Some(socket) = &row.ok.socket else { return Default::default() };
    let ms = |sketch: &Sketch, seconds: f64| {
        if sketch.is_empty() { String::new() } else { format!("{:.4}", seconds * 1e3) }
    };
    let (lag, resume) = (&socket.lag, &socket.resume);
    [
        socket.frames.to_string(),
        ms(lag, lag.quantile(0.5)),
        ms(lag, lag.quantile(0.99)),
        ms(lag, lag.max()),
        socket.lost.to_string(),
        socket.doubled.to_string(),
        socket.reordered.to_string(),
        socket.reconnects.to_string(),
        socket.resumed.to_string(),
        ms(resume, resume.quantile(0.99)),
        socket.closed.to_string(),
        socket.forgotten.to_string(),
    ]
}

/// Figures that a build keeps beside its cases.
fn properties(summary: &Summary) -> Vec<(String, String)> {
    let mut found = vec![
        ("requests".to_owned(), summary.all.count().to_string()),
        ("requests_per_second".to_owned(), format!("{:.3}", summary.rate())),
        ("error_share".to_owned(), summary.error_share().to_string()),
        (
            "response_p99_ms".to_owned(),
            format!("{:.4}", summary.all.ok.response.quantile(0.99) * 1e3),
        ),
    ];
    let mut add = |name: &str, value: String| found.push((name.to_owned(), value));
    if let Some(socket) = &summary.all.ok.socket {
        if !socket.lag.is_empty() {
            add("sockets.lag_p99_ms", format!("{:.4}", socket.lag.quantile(0.99) * 1e3));
        }
        for (name, count) in [
            ("sockets.frames", socket.frames),
            ("sockets.lost", socket.lost),
            ("sockets.doubled", socket.doubled),
            ("sockets.reordered", socket.reordered),
            ("sockets.reconnects", socket.reconnects),
            ("sockets.resumed", socket.resumed),
            ("sockets.closed", socket.closed),
        ] {
            add(name, count.to_string());
        }
    }
    if let Some(torn) = summary.end.as_ref().and_then(|end| end.teardown.as_ref()) {
        add("teardown.requests", torn.requests.to_string());
        add("teardown.failed", torn.failed.to_string());
        add("teardown.users_not_done", torn.not_done.to_string());
    }
    if let Some(cpus) = summary.target_cpus() {
        add("target.cpus", format!("{cpus:.3}"));
    }
    found
}

/// A test case for validity, one for each threshold, one for lost writes.
pub(super) fn junit(summary: &Summary, verdict: &Verdict) -> String {
    let mut cases = vec![("the run is valid".to_owned(), verdict.invalid.join("; "))];
    for threshold in &verdict.thresholds {
        let fault =
            if threshold.holds { String::new() } else { format!("it is {}", threshold.value) };
        cases.push((threshold.text.clone(), fault));
    }
    cases.push(("acknowledged writes are kept".to_owned(), verdict.broken.join("; ")));
    let failures = cases.iter().filter(|(_, fault)| !fault.is_empty()).count();
    let suite = escape(&format!("{} {}", summary.header.scenario, summary.header.profile));
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{suite}\" \
         tests=\"{}\" failures=\"{failures}\" time=\"{:.3}\">\n",
        cases.len(),
        summary.seconds()
    );
    out.push_str("    <properties>\n");
    for (name, value) in properties(summary) {
        let _ = writeln!(out, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    out.push_str("    </properties>\n");
    for (name, fault) in cases {
        let name = escape(&name);
        let _ = match fault.as_str() {
            "" => writeln!(out, "    <testcase classname=\"{suite}\" name=\"{name}\"/>"),
            fault => writeln!(
                out,
                "    <testcase classname=\"{suite}\" name=\"{name}\"><failure message=\"{}\"/>\
                 </testcase>",
                escape(fault)
            ),
        };
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// For XML's text and attributes.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
