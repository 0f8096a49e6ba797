//! The live view of a run on a terminal: how far it is, how fast it goes, how
//! long answers take, what fails, and whether the generator keeps up.

use std::fs::File;
use std::io;

use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal};

use crate::screen::{self, Screen};
use crate::summary::{Point, Summary};
use crate::units::{show_bytes, show_rate, show_seconds, show_share};

/// Classes of errors that have a line.
const CLASSES_SHOWN: usize = 4;
/// Rows of the head: facts, sparklines.
const HEAD_ROWS: u16 = 6;

/// What the view has to know beside what was measured.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) title: String,
    pub(crate) load: String,
    /// Iterations, where the run ends by their number.
    pub(crate) iterations: Option<u64>,
}

/// A view that has the terminal.
pub(crate) struct View {
    about: About,
    // The terminal's handle goes before the screen that it draws on.
    terminal: Terminal<CrosstermBackend<File>>,
    _screen: Screen,
}

impl View {
    /// Takes the terminal at stderr.
    ///
    /// # Errors
    /// When there is none, or not for us.
    pub(crate) fn start(about: About) -> io::Result<Self> {
        if std::env::var_os("TERM").is_none_or(|kind| kind == "dumb") {
            return Err(io::Error::other("a terminal that shows lines alone"));
        }
        let terminal = Terminal::new(CrosstermBackend::new(screen::stderr()?))?;
        let screen = Screen::enter(screen::stderr()?)?;
        let mut view = Self { about, terminal, _screen: screen };
        let about = &view.about;
        view.terminal.draw(|frame| {
            let text = format!("{}\n{}\n\nThe run begins.", about.title, about.load);
            frame.render_widget(Paragraph::new(text), frame.area());
        })?;
        Ok(view)
    }

    /// Shows what was measured so far. A terminal that cannot be drawn on any
    /// more is no reason to end a run.
    pub(crate) fn show(&mut self, summary: &Summary, point: &Point, ending: bool) {
        let about = &self.about;
        drop(self.terminal.draw(|frame| draw(frame, about, summary, point, ending)));
    }
}

fn draw(frame: &mut Frame<'_>, about: &About, summary: &Summary, point: &Point, ending: bool) {
    let errors = u16::try_from(summary.errors.len().min(CLASSES_SHOWN)).unwrap_or_default();
    let errors = if errors == 0 { 0 } else { errors + 1 };
    let [title, bar, head, endpoints, failures, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(HEAD_ROWS),
        Constraint::Min(3),
        Constraint::Length(errors),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let named =
        Line::from(vec![about.title.as_str().bold(), "  ".into(), about.load.as_str().dim()]);
    frame.render_widget(Paragraph::new(named), title);
    frame.render_widget(gauge(about, summary, point), bar);
    let [facts, rates, times] =
        Layout::horizontal([Constraint::Length(38), Constraint::Fill(1), Constraint::Fill(1)])
            .areas(head);
    frame.render_widget(Paragraph::new(facts_of(summary, point)), facts);
    spark(frame, rates, "requests/s", summary, Color::Blue, |point| {
        (point.ok + point.failed) as f64 / point.seconds.max(0.001)
    });
    spark(frame, times, "p99 in ms", summary, Color::Magenta, |point| point.p99 * 1e3);
    frame.render_widget(table(summary, endpoints.width), endpoints);
    frame.render_widget(Paragraph::new(failures_of(summary)), failures);
    let over =
        summary.header.load.seconds.is_some_and(|s| point.second as f64 + point.seconds >= s);
    let says = match (ending, over) {
        (true, _) => "ending: what was measured will be reported".yellow(),
        (false, true) => "the load is over; what was acknowledged is read back".yellow(),
        (false, false) => "Ctrl-C ends the run and reports what was measured".dim(),
    };
    frame.render_widget(Paragraph::new(Line::from(says)), foot);
}

fn gauge<'a>(about: &About, summary: &Summary, point: &Point) -> Gauge<'a> {
    let ran = point.second as f64 + point.seconds;
    let (share, label) = match (summary.header.load.seconds, about.iterations) {
        (Some(whole), _) => {
            let left = (whole - ran).max(0.0);
            let label = format!("{ran:.0} s of {whole:.0} s, {left:.0} s left");
            (ran / whole.max(0.001), label)
        }
        (None, Some(whole)) => {
            let done = summary.generator.offered.min(whole);
            (done as f64 / whole.max(1) as f64, format!("{done} of {whole} iterations, {ran:.0} s"))
        }
        (None, None) => (0.0, format!("{ran:.0} s")),
    };
    let label = if point.warmup { format!("{label}, warming up") } else { label };
    Gauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(label)
        .gauge_style(Style::new().fg(Color::Blue).bg(Color::DarkGray))
}

fn facts_of<'a>(summary: &Summary, point: &Point) -> Vec<Line<'a>> {
    let response = &summary.all.ok.response;
    let time = |q: f64| {
        if response.is_empty() { "-".to_owned() } else { show_seconds(response.quantile(q)) }
    };
    let fact = |name: &str, value: String, style: Style| {
        Line::from(vec![Span::raw(format!("{name:<12}")).dim(), Span::styled(value, style)])
    };
    let plain = Style::new().add_modifier(Modifier::BOLD);
    let alarm = |bad: bool, colour: Color| if bad { plain.fg(colour) } else { plain };
    let failed = summary.all.failed.count + summary.generator.shed;
    let lag = summary.generator.dispatch_lag.quantile(0.99);
    let late = !crate::verdict::keeps_up(summary);
    let mut requests = summary.all.count().to_string();
    if point.users > 0 {
        requests += &format!(", {} users", point.users);
    }
    let mut lines = vec![
        fact("now", show_rate((point.ok + point.failed) as f64 / point.seconds.max(0.001)), plain),
        fact("requests", requests, plain),
        fact(
            "errors",
            format!("{failed} ({})", show_share(summary.error_share())),
            alarm(failed > 0, Color::Red),
        ),
        fact("p50 p95 p99", format!("{} {} {}", time(0.5), time(0.95), time(0.99)), plain),
        fact(
            "generator",
            format!("{} behind{}", show_seconds(lag), if late { ", NOT VALID" } else { "" }),
            alarm(late, Color::Yellow),
        ),
    ];
    if let Some(used) = point.target {
        let cpus = used.cpu_seconds / point.seconds.max(0.001);
        let memory = show_bytes(used.resident_bytes as f64);
        lines.push(fact("target", format!("{cpus:.2} CPUs, {memory}"), plain));
    }
    lines
}

/// The newest seconds that there is room for.
fn spark(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    summary: &Summary,
    colour: Color,
    value: impl Fn(&Point) -> f64,
) {
    let room = usize::from(area.width.saturating_sub(2));
    let skip = summary.timeline.len().saturating_sub(room);
    let values: Vec<f64> = summary.timeline.iter().skip(skip).map(value).collect();
    let last = values.last().copied().unwrap_or_default();
    let most = values.iter().copied().fold(0.0, f64::max);
    // In thousandths, because bars are whole numbers.
    let bars = values.into_iter().map(|value| (value * 1e3) as u64);
    let title = format!(" {title}: {}, at most {} ", short(last), short(most));
    let spark = Sparkline::default()
        .block(Block::bordered().title(title).border_style(Style::new().dim()))
        .data(bars)
        .style(Style::new().fg(colour));
    frame.render_widget(spark, area);
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Without the mean where there is little room.
fn table<'a>(summary: &Summary, width: u16) -> Table<'a> {
    const ROOMY: u16 = 100;
    let mean = usize::from(width >= ROOMY);
    let asked = summary.endpoints.iter().filter(|row| row.count() > 0);
    let rows = asked.chain([&summary.all]).map(|row| {
        let response = &row.ok.response;
        let time = |seconds: f64| {
            if response.is_empty() { "-".to_owned() } else { show_seconds(seconds) }
        };
        let failed = row.failed.count > 0;
        let errors = Cell::from(show_share(row.error_share()));
        let mut cells = vec![Cell::from(row.name.clone()), Cell::from(row.count().to_string())];
        cells.push(if failed { errors.red() } else { errors });
        cells.push(Cell::from(show_rate(summary.rate_of(row))));
        let times = [0.5, 0.95, 0.99].map(|q| response.quantile(q));
        let times = std::iter::repeat_n(response.mean(), mean).chain(times);
        cells.extend(times.chain([response.max()]).map(|seconds| Cell::from(time(seconds))));
        Row::new(cells)
    });
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend(vec![Constraint::Length(8); 7 + mean]);
    let mut head = vec!["endpoint", "requests", "errors", "rate"];
    head.extend(std::iter::repeat_n("mean", mean));
    head.extend(["p50", "p95", "p99", "max"]);
    Table::new(rows, widths).header(Row::new(head).dim())
}

fn failures_of<'a>(summary: &Summary) -> Vec<Line<'a>> {
    let mut errors: Vec<(&(usize, String), &u64)> = summary.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = errors.into_iter().take(CLASSES_SHOWN).map(|((endpoint, class), count)| {
        let name = summary.endpoints.get(*endpoint).map_or("?", |row| row.name.as_str());
        Line::from(format!("{count:>9}  {name}  {class}")).red()
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{mixed_run, mock};
    use ratatui::backend::TestBackend;

    #[test]
    fn the_view_shows_progress_endpoints_and_errors_in_any_size() {
        let summary = mixed_run(&mock(|_| ()));
        let point = summary.timeline.last().unwrap().clone();
        let about = About {
            title: "test (normal)".to_owned(),
            load: "closed load, 6 users".to_owned(),
            iterations: Some(400),
        };
        for (width, height) in [(120, 40), (80, 24), (40, 12), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &about, &summary, &point, false)).unwrap();
            if width < 80 {
                continue;
            }
            let shown = terminal.backend().to_string();
            for part in
                ["test (normal)", "400 of 400", "http_500", "chat", "p99 in ms", "Ctrl-C ends"]
            {
                assert!(shown.contains(part), "{part} in\n{shown}");
            }
        }
    }
}
