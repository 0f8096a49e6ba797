//! Expressions of time, resolved against the moment at which something was said.
//! English.

use agentry_domain::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp as Instant};

use super::words::{Gap, Word};

/// Days from the first to before the last, that an expression means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first day.
    pub from: Date,
    /// The day after the last one.
    pub until: Date,
}

impl Period {
    fn day(date: Date) -> Option<Self> {
        Some(Self { from: date, until: date.tomorrow().ok()? })
    }

    fn month(year: i16, month: i8) -> Option<Self> {
        let from = Date::new(year, month, 1).ok()?;
        Some(Self { from, until: from.checked_add(Span::new().months(1)).ok()? })
    }

    fn year(year: i16) -> Option<Self> {
        let from = Date::new(year, 1, 1).ok()?;
        Some(Self { from, until: Date::new(year.checked_add(1)?, 1, 1).ok()? })
    }

    fn week_of(date: Date) -> Option<Self> {
        let from = date
            .checked_sub(Span::new().days(i64::from(date.weekday().to_monday_zero_offset())))
            .ok()?;
        Some(Self { from, until: from.checked_add(Span::new().days(7)).ok()? })
    }

    /// When it begins.
    pub fn begins(&self) -> Option<Timestamp> {
        instant(self.from)
    }

    /// When it is over.
    pub fn ends(&self) -> Option<Timestamp> {
        instant(self.until)
    }

    /// Whether a day is in it.
    pub fn holds(&self, date: Date) -> bool {
        self.from <= date && date < self.until
    }
}

/// An expression of time in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The first word and the one after the last.
    pub words: (usize, usize),
    /// What it means.
    pub period: Period,
}

fn instant(date: Date) -> Option<Timestamp> {
    let zoned = date.to_zoned(TimeZone::UTC).ok()?;
    Some(Timestamp::from_micros(zoned.timestamp().as_microsecond()))
}

/// The day of a moment, in UTC.
pub fn day_of(at: Timestamp) -> Option<Date> {
    let instant = Instant::from_microsecond(at.micros()).ok()?;
    Some(instant.to_zoned(TimeZone::UTC).date())
}

const NUMBERS: &[(&str, i64)] = &[
    ("a", 1),
    ("an", 1),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("eleven", 11),
    ("twelve", 12),
    ("couple", 2),
    ("few", 3),
];

fn number(word: &str) -> Option<i64> {
    if let Ok(number) = word.parse() {
        return (0..=10_000).contains(&number).then_some(number);
    }
    NUMBERS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number)
}

/// The number of a month, 1 to 12.
fn month(word: &Word<'_>) -> Option<i8> {
    let name = word.lower.trim_end_matches('.');
    let number = match name {
        "january" | "jan" => 1,
        "february" | "feb" => 2,
        "march" | "mar" => 3,
        "april" | "apr" => 4,
        "may" => 5,
        "june" | "jun" => 6,
        "july" | "jul" => 7,
        "august" | "aug" => 8,
        "september" | "sept" | "sep" => 9,
        "october" | "oct" => 10,
        "november" | "nov" => 11,
        "december" | "dec" => 12,
        _ => return None,
    };
    // "may" and "march" are verbs, too.
    (word.is_capital() || !matches!(name, "may" | "march" | "mar" | "jan" | "jun" | "sep" | "dec"))
        .then_some(number)
}

/// Whether a word names a day of the week or a month.
pub(crate) fn is_calendar(word: &Word<'_>) -> bool {
    month(word).is_some() || weekday(&word.lower).is_some()
}

fn weekday(word: &str) -> Option<Weekday> {
    Some(match word {
        "monday" | "mondays" => Weekday::Monday,
        "tuesday" | "tuesdays" => Weekday::Tuesday,
        "wednesday" | "wednesdays" => Weekday::Wednesday,
        "thursday" | "thursdays" => Weekday::Thursday,
        "friday" | "fridays" => Weekday::Friday,
        "saturday" | "saturdays" => Weekday::Saturday,
        "sunday" | "sundays" => Weekday::Sunday,
        _ => return None,
    })
}

fn day_number(word: &str) -> Option<i8> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let ending = &word[digits.len()..];
    if !matches!(ending, "" | "st" | "nd" | "rd" | "th") {
        return None;
    }
    digits.parse().ok().filter(|day| (1..=31).contains(day))
}

fn year(word: &str) -> Option<i16> {
    let is_year = word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|year| is_year && (1800..=2199).contains(year))
}

/// The expressions of time in a text, in order.
pub(crate) fn dates(words: &[Word<'_>], at: Timestamp) -> Vec<When> {
    let Some(today) = day_of(at) else { return Vec::new() };
    let mut found = Vec::new();
    let mut from = 0;
    while from < words.len() {
        match expression(words, from, today) {
            Some((period, length)) => {
                found.push(When { words: (from, from + length), period });
                from += length;
            }
            None => from += 1,
        }
    }
    found
}

/// What begins at a word, and how many words it has.
fn expression(words: &[Word<'_>], from: usize, today: Date) -> Option<(Period, usize)> {
    let word = |offset: usize| {
        let word = words.get(from + offset)?;
        // It goes on within the sentence; "May 3, 2023" has a comma in it.
        (offset == 0 || word.gap != Gap::Sentence).then_some(word)
    };
    let lower = |offset: usize| word(offset).map_or("", |word| word.lower.as_str());
    let days = |n: i64| today.checked_add(Span::new().try_days(n).ok()?).ok();
    match lower(0) {
        "today" | "tonight" => return Some((Period::day(today)?, 1)),
        "yesterday" => return Some((Period::day(days(-1)?)?, 1)),
        "tomorrow" => return Some((Period::day(days(1)?)?, 1)),
        "last" | "next" | "this" | "past" => {
            return relative(lower(0), lower(1), today).map(|it| (it, 2));
        }
        "recently" | "lately" => return None,
        _ => {}
    }
    if let Some(found) = ago(&lower, today) {
        return Some(found);
    }
    if let Some(found) = iso(words.get(from)?.text) {
        return Some((found, 1));
    }
    // May 3, 2023; May 3rd; May 2023; in May
    if let Some(month) = word(0).and_then(month) {
        if let Some(day) = day_number(lower(1)) {
            if let Some(year) = year(lower(2)) {
                return Some((Period::day(Date::new(year, month, day).ok()?)?, 3));
            }
            return Some((Period::day(nearest(today, month, day)?)?, 2));
        }
        if let Some(year) = year(lower(1)) {
            return Some((Period::month(year, month)?, 2));
        }
        let before = from.checked_sub(1).map(|nth| words[nth].lower.as_str());
        if matches!(
            before,
            Some("in" | "since" | "during" | "last" | "until" | "by" | "of" | "early" | "late")
        ) {
            let year = if month > today.month() { today.year() - 1 } else { today.year() };
            return Some((Period::month(year, month)?, 1));
        }
        return None;
    }
    // 3 May 2023; 3rd of May
    if let Some(day) = day_number(lower(0)) {
        let (of, next) = if lower(1) == "of" { (1, 2) } else { (0, 1) };
        if let Some(month) = word(next).and_then(month) {
            if let Some(year) = year(lower(next + 1)) {
                return Some((Period::day(Date::new(year, month, day).ok()?)?, 3 + of));
            }
            return Some((Period::day(nearest(today, month, day)?)?, 2 + of));
        }
    }
    // in 2019, since 2019
    if let Some(year) = year(lower(0)) {
        let before = from.checked_sub(1).map(|nth| words[nth].lower.as_str());
        let dated = matches!(
            before,
            Some(
                "in" | "since"
                    | "of"
                    | "during"
                    | "until"
                    | "from"
                    | "by"
                    | "summer"
                    | "winter"
                    | "spring"
                    | "autumn"
                    | "fall"
                    | "early"
                    | "late"
            )
        );
        return dated.then_some((Period::year(year)?, 1));
    }
    if let Some(day) = weekday(lower(0)) {
        let before = from.checked_sub(1).map(|nth| words[nth].lower.as_str());
        if before == Some("on") {
            return Some((Period::day(last_weekday(today, day)?)?, 1));
        }
    }
    None
}

/// Three weeks ago; in two days; a couple of months back.
fn ago<'w>(lower: &impl Fn(usize) -> &'w str, today: Date) -> Option<(Period, usize)> {
    let (ahead, at) = if lower(0) == "in" { (true, 1) } else { (false, 0) };
    let mut amount = number(lower(at))?;
    let mut unit = at + 1;
    if lower(at) == "a" && number(lower(unit)).is_some() {
        amount = number(lower(unit))?;
        unit += 1;
    }
    if lower(unit) == "of" {
        unit += 1;
    }
    let signed = if ahead { amount } else { -amount };
    let span = |years: i64, months: i64, days: i64| {
        Span::new().try_years(years).ok()?.try_months(months).ok()?.try_days(days).ok()
    };
    let (span, kind) = match lower(unit) {
        "day" | "days" => (span(0, 0, signed)?, 'd'),
        "week" | "weeks" => (span(0, 0, signed * 7)?, 'w'),
        "month" | "months" => (span(0, signed, 0)?, 'm'),
        "year" | "years" => (span(signed, 0, 0)?, 'y'),
        _ => return None,
    };
    let length = if ahead {
        unit + 1
    } else if matches!(lower(unit + 1), "ago" | "back" | "earlier") {
        unit + 2
    } else {
        return None;
    };
    let date = today.checked_add(span).ok()?;
    let period = match kind {
        'd' => Period::day(date),
        'w' => Period::week_of(date),
        'm' => Period::month(date.year(), date.month()),
        _ => Period::year(date.year()),
    };
    Some((period?, length))
}

/// Last week, this month, next Friday.
fn relative(which: &str, what: &str, today: Date) -> Option<Period> {
    let step = match which {
        "last" | "past" => -1,
        "next" => 1,
        _ => 0,
    };
    match what {
        "night" | "evening" if step < 0 => Period::day(today.yesterday().ok()?),
        "morning" | "afternoon" | "evening" if step == 0 => Period::day(today),
        "week" => Period::week_of(today.checked_add(Span::new().days(7 * step)).ok()?),
        "weekend" => {
            let week = Period::week_of(today)?;
            let from = week.from.checked_add(Span::new().days(5 + 7 * step)).ok()?;
            Some(Period { from, until: from.checked_add(Span::new().days(2)).ok()? })
        }
        "month" => {
            let date = today.checked_add(Span::new().months(step)).ok()?;
            Period::month(date.year(), date.month())
        }
        "year" => Period::year(today.year() + i16::try_from(step).ok()?),
        "summer" | "winter" | "spring" | "fall" | "autumn" => {
            let (first, months) = match what {
                "spring" => (3, 3),
                "summer" => (6, 3),
                "winter" => (12, 3),
                _ => (9, 3),
            };
            let mut year = today.year();
            if step < 0 && today.month() <= first + 2 {
                year -= 1;
            }
            let from = Date::new(year, first, 1).ok()?;
            Some(Period { from, until: from.checked_add(Span::new().months(months)).ok()? })
        }
        _ => {
            let day = weekday(what)?;
            let date = match step {
                1 => today.nth_weekday(1, day).ok()?,
                -1 => last_weekday(today, day)?,
                _ => {
                    let week = Period::week_of(today)?;
                    let ahead = i64::from(day.to_monday_zero_offset());
                    week.from.checked_add(Span::new().days(ahead)).ok()?
                }
            };
            Period::day(date)
        }
    }
}

fn last_weekday(today: Date, day: Weekday) -> Option<Date> {
    today.nth_weekday(-1, day).ok()
}

/// A day of the year, in the year in which it is nearest.
fn nearest(today: Date, month: i8, day: i8) -> Option<Date> {
    (-1..=1)
        .filter_map(|years| Date::new(today.year() + years, month, day).ok())
        .min_by_key(|date| (date.duration_since(today).as_hours()).abs())
}

/// 2023-05-03
fn iso(text: &str) -> Option<Period> {
    let is_iso = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    if !is_iso {
        return None;
    }
    Period::day(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    /// 17 May 2023, a Wednesday.
    const AT: Timestamp = Timestamp::from_micros(1_684_324_800_000_000);

    #[test]
    fn expressions_are_resolved_against_the_moment() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let found: Vec<(String, String)> = dates(&words(text), AT)
                .iter()
                .map(|when| (when.period.from.to_string(), when.period.until.to_string()))
                .collect();
            let expected: Vec<(String, String)> =
                expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("I went there yesterday.", &[("2023-05-16", "2023-05-17")]);
        check(
            "We met last Friday, not today",
            &[("2023-05-12", "2023-05-13"), ("2023-05-17", "2023-05-18")],
        );
        check("It was two weeks ago", &[("2023-05-01", "2023-05-08")]);
        check("a couple of months ago", &[("2023-03-01", "2023-04-01")]);
        check("It happened on May 3, 2021.", &[("2021-05-03", "2021-05-04")]);
        check("It happened on 3rd of December.", &[("2022-12-03", "2022-12-04")]);
        check("I have lived here since 2019", &[("2019-01-01", "2020-01-01")]);
        check("in June 2022 it rained", &[("2022-06-01", "2022-07-01")]);
        check("in August", &[("2022-08-01", "2022-09-01")]);
        check("next month", &[("2023-06-01", "2023-07-01")]);
        check("last weekend", &[("2023-05-13", "2023-05-15")]);
        check("in 3 days", &[("2023-05-20", "2023-05-21")]);
        check("due 2023-06-01", &[("2023-06-01", "2023-06-02")]);
        check("last year", &[("2022-01-01", "2023-01-01")]);
        check("It may rain. We march on. 1999 people came.", &[]);
    }
}
