//! The small pure expressions of scenarios: `${uid % 4}`, `${pick(questions)}`,
//! `${env.AGENTRY_KEY}`, `${user}`. They are compiled once, know no control
//! flow, and draw from the run's seed, so that the same run asks the same.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use serde_json::Value;

use crate::dice::Dice;

/// Words for `words(n)`: short and plain, so that bodies look like text.
const WORDS: [&str; 16] = [
    "river", "stone", "lamp", "garden", "letter", "winter", "bridge", "coffee", "paper", "market",
    "window", "music", "harbour", "bread", "forest", "clock",
];
/// The most that `words(n)` makes.
const WORDS_MAX: i64 = 10_000;

/// What names mean when a template is compiled.
pub(crate) struct Names<'a> {
    /// The lists of `data`.
    pub(crate) data: &'a [(String, Vec<Value>)],
    /// What steps save, by slot.
    pub(crate) saved: &'a [String],
    /// The lists in which steps keep what they made, by number.
    pub(crate) kept: &'a [String],
    /// The environment; constant for a run.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// Different for each run.
    pub(crate) run: &'a str,
}

/// What names mean when a template is rendered.
pub(crate) struct Scope<'a> {
    /// The user's number, from 0.
    pub(crate) uid: u64,
    /// The number of this iteration in the whole run, from 0.
    pub(crate) iteration: u64,
    pub(crate) saved: &'a [Option<Value>],
    pub(crate) kept: &'a Kept,
    pub(crate) data: &'a [(String, Vec<Value>)],
    pub(crate) dice: Dice,
    /// How many draws this iteration has made.
    pub(crate) draws: &'a Cell<u64>,
}

/// One user's lists of what it made.
pub(crate) type Kept = RefCell<Vec<Vec<Value>>>;

/// Why an expression has no value now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoValue {
    #[error("`{0}` has not been saved yet")]
    NotSaved(String),
    #[error("nothing is kept in `{0}`")]
    NothingKept(String),
    #[error("{0}")]
    Arithmetic(&'static str),
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    Constant(Value),
    Uid,
    Iteration,
    /// Microseconds since 1970, to be embedded in what is sent.
    Now,
    Saved(usize, String),
    Pick(usize),
    /// One of a user's own list; taken, it is not in it any more.
    Kept {
        list: usize,
        name: String,
        taken: bool,
    },
    Random(Box<(Expression, Expression)>),
    Hex(Box<Expression>),
    Words(Box<Expression>),
    Binary(Operator, Box<(Expression, Expression)>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Text with expressions in it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Literal(String),
    Inserted(Expression),
}

impl Template {
    /// The lists that it takes or picks from.
    pub(crate) fn kept_lists(&self, into: &mut Vec<usize>) {
        for part in &self.parts {
            if let Part::Inserted(expression) = part {
                expression.kept_lists(into);
            }
        }
    }

    /// # Errors
    /// A sentence about the first fault.
    pub(crate) fn compile(text: &str, names: &Names<'_>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if start > 0 {
                parts.push(Part::Literal(rest[..start].to_owned()));
            }
            let inner = &rest[start + 2..];
            let end = inner.find('}').ok_or_else(|| format!("`${{` is not closed in `{text}`"))?;
            let expression = Parser::parse(&inner[..end], names)?;
            parts.push(match expression {
                Expression::Constant(value) => Part::Literal(as_text(&value)),
                expression => Part::Inserted(expression),
            });
            rest = &inner[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// A text that is one expression alone keeps the expression's type.
    ///
    /// # Errors
    /// When an expression has no value.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Result<Value, NoValue> {
        if let [Part::Inserted(expression)] = self.parts.as_slice() {
            return expression.value(scope);
        }
        let mut text = Vec::new();
        self.render(scope, &mut text, Escape::None)?;
        Ok(String::from_utf8_lossy(&text).into_owned().into())
    }

    /// # Errors
    /// When an expression has no value.
    pub(crate) fn render(
        &self,
        scope: &Scope<'_>,
        into: &mut Vec<u8>,
        escape: Escape,
    ) -> Result<(), NoValue> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => into.extend_from_slice(text.as_bytes()),
                Part::Inserted(expression) => escape.write(&expression.value(scope)?, into),
            }
        }
        Ok(())
    }
}

/// What inserted values must not break out of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Escape {
    /// A part of a URL: everything but unreserved characters is encoded.
    Url,
    /// A header's value: control characters become spaces.
    Header,
    /// Inside the quotes of a JSON string.
    JsonText,
    /// A JSON value of its own.
    Json,
    /// Nothing: a body that is plain text.
    None,
}

impl Escape {
    pub(crate) fn write(self, value: &Value, into: &mut Vec<u8>) {
        match self {
            Self::Json => into.extend_from_slice(value.to_string().as_bytes()),
            Self::JsonText => {
                let quoted = Value::String(as_text(value)).to_string();
                into.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
            }
            Self::None => into.extend_from_slice(as_text(value).as_bytes()),
            Self::Header => into.extend(
                as_text(value)
                    .bytes()
                    .map(|byte| if byte.is_ascii_control() { b' ' } else { byte }),
            ),
            Self::Url => {
                for byte in as_text(value).bytes() {
                    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                        into.push(byte);
                    } else {
                        into.extend_from_slice(format!("%{byte:02X}").as_bytes());
                    }
                }
            }
        }
    }
}

/// A value as it stands in text: strings without quotes.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

impl Expression {
    /// # Errors
    /// When something has not been saved, or numbers do not go together.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Result<Value, NoValue> {
        let draw = || {
            let n = scope.draws.replace(scope.draws.get() + 1);
            scope.dice.fork(scope.iteration).bits(n)
        };
        Ok(match self {
            Self::Constant(value) => value.clone(),
            Self::Uid => scope.uid.into(),
            Self::Iteration => scope.iteration.into(),
            Self::Now => jiff::Timestamp::now().as_microsecond().into(),
            Self::Saved(slot, name) => scope
                .saved
                .get(*slot)
                .and_then(Clone::clone)
                .ok_or_else(|| NoValue::NotSaved(name.clone()))?,
            Self::Pick(list) => {
                let items = scope.data.get(*list).map_or(&[][..], |(_, items)| items);
                let chosen = draw().checked_rem(items.len() as u64).unwrap_or_default();
                usize::try_from(chosen).ok().and_then(|n| items.get(n)).cloned().unwrap_or_default()
            }
            Self::Kept { list, name, taken } => {
                let mut kept = scope.kept.borrow_mut();
                let items = kept.get_mut(*list).filter(|items| !items.is_empty());
                let items = items.ok_or_else(|| NoValue::NothingKept(name.clone()))?;
                let chosen = usize::try_from(draw() % items.len() as u64).unwrap_or_default();
                if *taken { items.swap_remove(chosen) } else { items[chosen].clone() }
            }
            Self::Random(ends) => {
                let (low, high) = (whole(&ends.0.value(scope)?)?, whole(&ends.1.value(scope)?)?);
                let width = high.checked_sub(low).and_then(|width| u64::try_from(width).ok());
                let width = width.ok_or(NoValue::Arithmetic("random(a, b) needs a <= b"))?;
                let chosen = width.checked_add(1).map_or_else(draw, |n| draw() % n);
                low.wrapping_add_unsigned(chosen).into()
            }
            Self::Hex(digits) => {
                let digits = whole(&digits.value(scope)?)?.clamp(1, 64);
                let mut text = String::new();
                while (text.len() as i64) < digits {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{:016x}", draw());
                }
                text.truncate(usize::try_from(digits).unwrap_or(64));
                text.into()
            }
            Self::Words(count) => {
                let count = whole(&count.value(scope)?)?.clamp(0, WORDS_MAX);
                let words: Vec<&str> =
                    (0..count).map(|_| WORDS[(draw() % WORDS.len() as u64) as usize]).collect();
                words.join(" ").into()
            }
            Self::Binary(operator, sides) => {
                operator.apply(&sides.0.value(scope)?, &sides.1.value(scope)?)?
            }
        })
    }
}

impl Expression {
    /// Whether it has a value that a step saved.
    pub(crate) fn reads_saved(&self) -> bool {
        match self {
            Self::Saved(..) | Self::Kept { .. } => true,
            Self::Constant(_) | Self::Uid | Self::Iteration | Self::Now | Self::Pick(_) => false,
            Self::Hex(inner) | Self::Words(inner) => inner.reads_saved(),
            Self::Random(both) | Self::Binary(_, both) => {
                both.0.reads_saved() || both.1.reads_saved()
            }
        }
    }
}

impl Expression {
    /// The lists that it takes or picks from.
    pub(crate) fn kept_lists(&self, into: &mut Vec<usize>) {
        match self {
            Self::Kept { list, .. } => into.push(*list),
            Self::Constant(_)
            | Self::Uid
            | Self::Iteration
            | Self::Now
            | Self::Pick(_)
            | Self::Saved(..) => {}
            Self::Hex(inner) | Self::Words(inner) => inner.kept_lists(into),
            Self::Random(both) | Self::Binary(_, both) => {
                both.0.kept_lists(into);
                both.1.kept_lists(into);
            }
        }
    }
}

fn whole(value: &Value) -> Result<i64, NoValue> {
    value.as_i64().ok_or(NoValue::Arithmetic("a whole number is needed"))
}

impl Operator {
    fn apply(self, left: &Value, right: &Value) -> Result<Value, NoValue> {
        if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
            let result = match self {
                Self::Add => left.checked_add(right),
                Self::Subtract => left.checked_sub(right),
                Self::Multiply => left.checked_mul(right),
                Self::Divide => left.checked_div(right),
                Self::Remainder => left.checked_rem(right),
            };
            return result
                .map(Value::from)
                .ok_or(NoValue::Arithmetic("division by zero, or too large a number"));
        }
        let (Some(left), Some(right)) = (left.as_f64(), right.as_f64()) else {
            return Err(NoValue::Arithmetic("numbers are needed"));
        };
        Ok(match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide => left / right,
            Self::Remainder => left % right,
        }
        .into())
    }
}

/// Recursive descent over the characters.
struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    names: &'a Names<'a>,
    depth: u8,
}

/// Parentheses and calls may nest this deep.
const DEPTH_MAX: u8 = 16;

impl<'a> Parser<'a> {
    fn parse(text: &'a str, names: &'a Names<'a>) -> Result<Expression, String> {
        let mut parser = Self { text, rest: text, names, depth: 0 };
        let expression = parser.sum()?;
        if parser.peek().is_some() {
            return Err(parser.wrong("an operator or the end"));
        }
        Ok(expression)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    fn wrong(&self, expected: &str) -> String {
        format!("`${{{}}}`: {expected} is expected at `{}`", self.text, self.rest)
    }

    fn sum(&mut self) -> Result<Expression, String> {
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                Some('+') => Operator::Add,
                Some('-') => Operator::Subtract,
                _ => return Ok(left),
            };
            self.rest = &self.rest[1..];
            left = Expression::Binary(operator, Box::new((left, self.product()?)));
        }
    }

    fn product(&mut self) -> Result<Expression, String> {
        let mut left = self.factor()?;
        loop {
            let operator = match self.peek() {
                Some('*') => Operator::Multiply,
                Some('/') => Operator::Divide,
                Some('%') => Operator::Remainder,
                _ => return Ok(left),
            };
            self.rest = &self.rest[1..];
            left = Expression::Binary(operator, Box::new((left, self.factor()?)));
        }
    }

    fn factor(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("`${{{}}}` is nested too deep", self.text));
        }
        let factor = self.factor_inner();
        self.depth -= 1;
        factor
    }

    fn factor_inner(&mut self) -> Result<Expression, String> {
        let Some(first) = self.peek() else { return Err(self.wrong("a value")) };
        if self.take('(') {
            let inner = self.sum()?;
            return if self.take(')') { Ok(inner) } else { Err(self.wrong("`)`")) };
        }
        if self.take('-') {
            let zero = Expression::Constant(0.into());
            return Ok(Expression::Binary(Operator::Subtract, Box::new((zero, self.factor()?))));
        }
        if first == '\'' || first == '"' {
            let inner = &self.rest[1..];
            let end = inner.find(first).ok_or_else(|| self.wrong("the closing quote"))?;
            self.rest = &inner[end + 1..];
            return Ok(Expression::Constant(inner[..end].into()));
        }
        let word = self.word();
        if first.is_ascii_digit() {
            let number: Option<Value> = word
                .parse::<i64>()
                .map(Value::from)
                .ok()
                .or_else(|| word.parse::<f64>().ok().map(Value::from));
            return number.map(Expression::Constant).ok_or_else(|| self.wrong("a number"));
        }
        if word.is_empty() {
            return Err(self.wrong("a value"));
        }
        if self.take('(') { self.call(word) } else { self.name(word) }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn call(&mut self, function: &str) -> Result<Expression, String> {
        let expression = match function {
            "pick" | "take" => {
                self.peek();
                let list = self.word();
                let found = self.names.data.iter().position(|(name, _)| name == list);
                let kept = self.names.kept.iter().position(|name| name == list);
                match (found, kept) {
                    (Some(found), None) if function == "pick" => Expression::Pick(found),
                    (None, Some(kept)) => {
                        let (name, taken) = (list.to_owned(), function == "take");
                        Expression::Kept { list: kept, name, taken }
                    }
                    _ => {
                        return Err(format!(
                            "{function}(`{list}`): no step keeps a list of that name{}",
                            if function == "pick" { ", and `data` has none" } else { "" }
                        ));
                    }
                }
            }
            "random" => {
                let low = self.sum()?;
                if !self.take(',') {
                    return Err(self.wrong("`,`"));
                }
                Expression::Random(Box::new((low, self.sum()?)))
            }
            "hex" => Expression::Hex(Box::new(self.sum()?)),
            "words" => Expression::Words(Box::new(self.sum()?)),
            _ => {
                return Err(format!(
                    "there is no function `{function}`; there are pick(list), take(list), \
                     random(a, b), hex(digits), words(count)"
                ));
            }
        };
        if self.take(')') { Ok(expression) } else { Err(self.wrong("`)`")) }
    }

    fn name(&self, name: &str) -> Result<Expression, String> {
        if let Some(variable) = name.strip_prefix("env.") {
            let value = (self.names.env)(variable);
            let value = value.ok_or_else(|| format!("the variable {variable} is not set"))?;
            return Ok(Expression::Constant(value.into()));
        }
        if let Some(slot) = self.names.saved.iter().position(|saved| saved == name) {
            return Ok(Expression::Saved(slot, name.to_owned()));
        }
        match name {
            "uid" => Ok(Expression::Uid),
            "iteration" => Ok(Expression::Iteration),
            "now" => Ok(Expression::Now),
            "run" => Ok(Expression::Constant(self.names.run.into())),
            "true" => Ok(Expression::Constant(true.into())),
            "false" => Ok(Expression::Constant(false.into())),
            _ => Err(format!(
                "nothing is called `{name}`: there are uid, iteration, now, run, env.NAME and what \
                 steps save ({})",
                self.names.saved.join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str, escape: Escape) -> Result<String, String> {
        let data = [("questions".to_owned(), vec![json!("who?"), json!("why?")])];
        let saved = ["user".to_owned(), "later".to_owned()];
        let env = |name: &str| (name == "KEY").then(|| "secret".to_owned());
        let kept = ["made".to_owned(), "none".to_owned()];
        let names = Names { data: &data, saved: &saved, kept: &kept, env: &env, run: "r1" };
        let template = Template::compile(text, &names)?;
        let saved = [Some(json!("a b")), None];
        let kept = RefCell::new(vec![vec![json!("one")], vec![]]);
        let scope = Scope {
            uid: 7,
            iteration: 12,
            saved: &saved,
            kept: &kept,
            data: &data,
            dice: Dice::new(1, "x"),
            draws: &Cell::new(0),
        };
        let mut bytes = Vec::new();
        template.render(&scope, &mut bytes, escape).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn expressions_have_values() {
        for (text, expected) in [
            ("plain", "plain"),
            ("u${uid}-${iteration}", "u7-12"),
            ("${uid % 4}", "3"),
            ("${(1 + 2) * 3 - -4}", "13"),
            ("${7 / 2}", "3"),
            ("${7.0 / 2}", "3.5"),
            ("${'it' }", "it"),
            ("${env.KEY}/${run}", "secret/r1"),
            ("${user}", "a b"),
            ("${pick(made)}${pick(made)}${take(made)}", "oneoneone"),
        ] {
            assert_eq!(render(text, Escape::None), Ok(expected.to_owned()), "{text}");
        }
        let picked = render("${pick(questions)}", Escape::None).unwrap();
        assert!(["who?", "why?"].contains(&picked.as_str()));
        assert_eq!(picked, render("${pick(questions)}", Escape::None).unwrap());
        let number: i64 = render("${random(3, 5)}", Escape::None).unwrap().parse().unwrap();
        assert!((3..=5).contains(&number));
        assert_eq!(render("${hex(20)}", Escape::None).unwrap().len(), 20);
        assert_eq!(render("${words(5)}", Escape::None).unwrap().split(' ').count(), 5);
    }

    #[test]
    fn inserted_values_do_not_break_out() {
        assert_eq!(render("/x/${user}", Escape::Url), Ok("/x/a%20b".to_owned()));
        assert_eq!(render("${user}", Escape::Json), Ok("\"a b\"".to_owned()));
        assert_eq!(render("${uid}", Escape::Json), Ok("7".to_owned()));
    }

    #[test]
    fn faults_are_sentences() {
        for (text, part) in [
            ("${uid", "not closed"),
            ("${}", "a value is expected"),
            ("${nobody}", "nothing is called `nobody`"),
            ("${env.NONE}", "NONE is not set"),
            ("${pick(answers)}", "no step keeps a list of that name, and `data` has none"),
            ("${take(questions)}", "no step keeps"),
            ("${take(made)}${take(made)}", "nothing is kept in `made`"),
            ("${pick(none)}", "nothing is kept"),
            ("${frobnicate(1)}", "no function"),
            ("${1 +}", "a value is expected"),
            ("${1 2}", "an operator"),
            ("${((((((((((((((((((1))))))))))))))))))}", "nested too deep"),
            ("${later}", "has not been saved"),
            ("${1 / 0}", "division by zero"),
            ("${user + 1}", "numbers are needed"),
        ] {
            let fault = render(text, Escape::None).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }
}
