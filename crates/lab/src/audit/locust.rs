//! Evidence from Locust's `_stats.csv`. Locust puts the times of failed
//! requests in with the others.

use super::evidence::{Evidence, Phase, Row};

/// # Errors
/// When a column is missing or a line is torn.
pub(super) fn read(name: &str, text: &str) -> Result<Evidence, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(cells);
    let header = lines.next().ok_or("there is nothing in it")?;
    let column = |wanted: &str| {
        header.iter().position(|cell| cell == wanted).ok_or(format!("no column `{wanted}`"))
    };
    let (kind, label) = (column("Type")?, column("Name")?);
    let requests = column("Request Count")?;
    let optional = |wanted: &str| header.iter().position(|cell| cell == wanted);
    let columns = (
        column("Failure Count")?,
        column("Requests/s")?,
        column("Average Response Time")?,
        column("Min Response Time")?,
        column("Max Response Time")?,
    );
    let percentiles = [optional("50%"), optional("95%"), optional("99%")];
    let name = name.strip_suffix("_stats").unwrap_or(name);
    let mut phase =
        Phase { name: name.to_owned(), times_include_failures: true, ..Phase::default() };
    for (number, line) in (2..).zip(lines) {
        if line.len() != header.len() {
            return Err(format!("line {number} has {} cells, not {}", line.len(), header.len()));
        }
        let number = |column: usize| line[column].parse::<f64>().ok();
        let row = Row {
            requests: number(requests),
            failures: number(columns.0),
            rate: number(columns.1),
            mean: number(columns.2),
            min: number(columns.3),
            max: number(columns.4),
            p50: percentiles[0].and_then(number),
            p95: percentiles[1].and_then(number),
            p99: percentiles[2].and_then(number),
            ..Row::default()
        };
        if line[label] == "Aggregated" {
            phase.total = row;
        } else {
            phase
                .endpoints
                .insert(format!("{} {}", line[kind], line[label]).trim().to_owned(), row);
        }
    }
    Ok(Evidence { phases: vec![phase], claims: Vec::new() })
}

/// The cells of a line (RFC 4180, without line breaks in quotes).
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            c => cell.push(c),
        }
    }
    cells.push(cell);
    cells
}
