//! Reading and writing quantities: durations (`250us`, `1.5s`, `5m`), ranges of
//! them (`1s..2s`), rates (`500/s`, `60/m`) and shares (`0.1%`, `0.001`).

use std::time::Duration;

/// The longest duration that is taken, so that sums cannot overflow: 30 days.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// # Errors
/// A sentence saying what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 250us, 20ms, 1.5s, 5m or 1h");
    let text = text.trim();
    let unit_at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let value = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if value > DURATION_MAX {
        return Err(format!("`{text}` is longer than 30 days"));
    }
    Ok(value)
}

/// `a..b`, or one duration standing for both ends.
///
/// # Errors
/// A sentence saying what was expected.
pub fn duration_range(text: &str) -> Result<(Duration, Duration), String> {
    let (low, high) = match text.split_once("..") {
        Some((low, high)) => (duration(low)?, duration(high)?),
        None => (duration(text)?, duration(text)?),
    };
    if low > high {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok((low, high))
}

/// Per second.
///
/// # Errors
/// A sentence saying what was expected.
pub fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a rate such as 500/s or 60/m");
    let (number, unit) = text.trim().split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !number.is_finite() || number <= 0.0 {
        return Err(wrong());
    }
    Ok(number / seconds)
}

/// From 0 to 1.
///
/// # Errors
/// A sentence saying what was expected.
pub fn share(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a share such as 0.1% or 0.001");
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => text.parse::<f64>().map_err(|_| wrong())?,
    };
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(wrong()) }
}

/// A time in the unit that reads best, with three digits.
pub fn show_seconds(seconds: f64) -> String {
    let (value, unit) = match seconds.abs() {
        s if s >= 100.0 => return format!("{seconds:.0} s"),
        s if s >= 1.0 => (seconds, "s"),
        s if s >= 1e-3 => (seconds * 1e3, "ms"),
        0.0 => return "0 ms".to_owned(),
        _ => (seconds * 1e6, "us"),
    };
    let digits = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A count of bytes.
pub(crate) fn show_bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

/// A rate per second.
pub(crate) fn show_rate(rate: f64) -> String {
    match rate {
        r if r >= 999.5 => format!("{}/s", show_count(r.round() as u64)),
        r if r >= 100.0 => format!("{r:.0}/s"),
        r if r >= 10.0 => format!("{r:.1}/s"),
        0.0 => "0/s".to_owned(),
        r => format!("{r:.2}/s"),
    }
}

/// A whole number, in groups of three digits.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A share of one, in percent.
pub(crate) fn show_share(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".to_owned(),
        p if p < 0.01 => "< 0.01 %".to_owned(),
        p if p < 1.0 => format!("{p:.2} %"),
        p => format!("{p:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "1.2.3s", "-1s", "5 parsecs", "40000h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(duration_range("1s..2s"), Ok((second, 2 * second)));
        assert_eq!(duration_range("1s"), Ok((second, second)));
        assert!(duration_range("2s..1s").is_err());
        assert_eq!(rate("500/s"), Ok(500.0));
        assert_eq!(rate("60/m"), Ok(1.0));
        assert!(rate("0/s").is_err() && rate("5").is_err());
        assert_eq!(share("0.1%"), Ok(0.001));
        assert!(share("101%").is_err());
    }

    #[test]
    fn quantities_are_shown_with_three_digits() {
        assert_eq!(show_seconds(0.000_012_34), "12.3 us");
        assert_eq!(show_seconds(0.9), "900 ms");
        assert_eq!(show_seconds(1.234), "1.23 s");
        assert_eq!(show_rate(1_234_567.0), "1,234,567/s");
        assert_eq!(show_rate(22.4), "22.4/s");
        assert_eq!((show_count(7), show_count(1000)), ("7".to_owned(), "1,000".to_owned()));
        assert_eq!(show_share(0.649), "64.9 %");
    }
}
