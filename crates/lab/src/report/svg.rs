//! Charts, drawn here so that a report needs nothing from elsewhere.

use std::fmt::Write as _;

const WIDTH: f64 = 470.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// A line of more columns than pixels shows nothing more. Of the points that
/// share one, the lowest and the highest are drawn, so that no peak is lost.
const COLUMNS_MAX: usize = 400;

/// One line of a chart.
pub(super) struct Line {
    pub(super) name: String,
    /// A class of the style sheet.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// How an axis counts.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten, for positive values.
    Log,
}

/// A chart to be drawn.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) lines: &'a [Line],
    pub(super) y_scale: Scale,
    pub(super) x_ticks: &'a [(f64, String)],
    pub(super) show_y: &'a dyn Fn(f64) -> String,
    /// What the axis reaches at least, beyond the ticks; charts of one run have
    /// the same.
    pub(super) x_last: Option<f64>,
    /// Drawn behind the lines: from, to.
    pub(super) shaded: Option<(f64, f64)>,
}

/// Where the ticks of a linear axis up to `max` stand: about five, at 1, 2 or 5
/// times a power of ten.
pub(super) fn ticks(max: f64) -> Vec<f64> {
    if max <= 0.0 || !max.is_finite() {
        return vec![0.0, 1.0];
    }
    let raw = max / 4.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= raw);
    let step = step.unwrap_or(10.0 * power);
    (0..=(max / step).ceil() as u32).map(|n| f64::from(n) * step).collect()
}

impl Chart<'_> {
    /// The element, with a legend below.
    pub(super) fn draw(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let x_values = all().map(|(x, _)| *x).chain(self.x_ticks.iter().map(|(x, _)| *x));
        let x_values: Vec<f64> = match self.x_last {
            Some(last) => vec![0.0, last],
            None => x_values.collect(),
        };
        let (x_min, x_max) = bounds(x_values.into_iter());
        let (y_min, y_max, y_ticks) = self.y_axis(all().map(|(_, y)| *y));
        let x_span = if x_max > x_min { x_max - x_min } else { 1.0 };
        let x =
            |value: f64| LEFT + ((value - x_min) / x_span).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            let share = match self.y_scale {
                Scale::Linear => (value - y_min) / (y_max - y_min),
                Scale::Log => (value.max(y_min) / y_min).ln() / (y_max / y_min).ln(),
            };
            HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(self.title)
        );
        // Writing to a String cannot fail.
        if let Some((from, to)) = self.shaded {
            let (from, to) = (x(from.max(x_min)), x(to.min(x_max)));
            let _ = write!(
                out,
                "<rect class=\"shaded\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM
            );
        }
        for tick in y_ticks {
            let (at, label) = (y(tick), (self.show_y)(tick));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (tick, label) in self.x_ticks {
            let at = x(*tick);
            let _ = write!(
                out,
                "<text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
                HEIGHT - BOTTOM + 18.0
            );
        }
        for line in self.lines {
            let mut path = String::new();
            for (value, height) in thinned(&line.points) {
                let _ = write!(path, "{:.1},{:.1} ", x(value), y(height));
            }
            if let [(only, height)] = line.points.as_slice() {
                let (cx, cy) = (x(*only), y(*height));
                let _ = write!(
                    out,
                    "<circle class=\"{} dot\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"/>",
                    line.class
                );
            }
            let _ = write!(out, "<polyline class=\"{}\" points=\"{path}\"/>", line.class);
        }
        out.push_str("</svg><p class=\"legend\">");
        // One line is what the title says.
        for line in self.lines.iter().filter(|_| self.lines.len() > 1) {
            let _ =
                write!(out, "<span class=\"key {}\"></span>{} ", line.class, escape(&line.name));
        }
        out.push_str("</p>");
        out
    }

    fn y_axis(&self, values: impl Iterator<Item = f64>) -> (f64, f64, Vec<f64>) {
        match self.y_scale {
            Scale::Linear => {
                let ticks = ticks(values.fold(0.0, f64::max));
                (0.0, ticks.last().copied().unwrap_or(1.0), ticks)
            }
            Scale::Log => {
                let (low, high) = bounds(values.filter(|value| *value > 0.0));
                let (low, high) = if low > 0.0 { (low, high) } else { (0.001, 1.0) };
                let first = low.log10().floor() as i32;
                let last = (high.log10().ceil() as i32).max(first + 1);
                let ticks = (first..=last).map(|power| 10f64.powi(power)).collect();
                (10f64.powi(first), 10f64.powi(last), ticks)
            }
        }
    }
}

/// For text and attributes of the page.
fn escape(text: &str) -> String {
    // Writing to a String cannot fail.
    askama::filters::escape(text, askama::filters::Html)
        .map(|safe| safe.to_string())
        .unwrap_or_default()
}

/// At most two points for each column, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(COLUMNS_MAX).max(1);
    if step < 3 {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * COLUMNS_MAX);
    for column in points.chunks(step) {
        let order = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
        let ends = column.iter().min_by(order).zip(column.iter().max_by(order));
        if let Some((low, high)) = ends {
            let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
            kept.extend([*first, *second]);
        }
    }
    kept
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low.is_finite() { (low, high) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_of_one_second_is_drawn_in_a_run_of_hours() {
        let mut points: Vec<(f64, f64)> = (0..14_400).map(|n| (f64::from(n), 1.0)).collect();
        points[7_777].1 = 9.0;
        let drawn = thinned(&points);
        assert!(drawn.len() <= 2 * COLUMNS_MAX && drawn.is_sorted_by(|a, b| a.0 <= b.0));
        assert!(drawn.contains(&(7_777.0, 9.0)));
        assert_eq!(thinned(&points[..700]), points[..700]);
    }

    #[test]
    fn ticks_are_round_and_reach_the_top() {
        assert_eq!(ticks(100.0), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(7.3), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(0.0), [0.0, 1.0]);
        for max in [0.001, 0.3, 1.0, 42.0, 99_999.0] {
            let ticks = ticks(max);
            assert!(ticks.last().is_some_and(|last| *last >= max) && ticks.len() <= 6, "{ticks:?}");
        }
    }
}
