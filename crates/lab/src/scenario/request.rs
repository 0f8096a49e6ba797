//! A request as pieces that are fixed and pieces that vary, so that what does
//! not vary is put together once and not for each request.

use bytes::Bytes;

use crate::expression::{Escape, Expression, NoValue, Part, Scope, Template};

/// A request to be rendered.
#[derive(Debug)]
pub(crate) struct Request {
    /// The head without its end; with a fixed body, everything.
    pub(crate) pieces: Vec<Piece>,
    /// A body whose length is known only when it is rendered.
    pub(crate) body: Option<Vec<Piece>>,
    /// The answer will have no body.
    pub(crate) head: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Fixed(Bytes),
    Varies(Expression, Escape),
}

/// Joins neighbouring fixed pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    done: Vec<Piece>,
    fixed: Vec<u8>,
}

impl Pieces {
    pub(super) fn fixed(&mut self, bytes: impl AsRef<[u8]>) {
        self.fixed.extend_from_slice(bytes.as_ref());
    }

    pub(super) fn varies(&mut self, expression: Expression, escape: Escape) {
        self.end_fixed();
        self.done.push(Piece::Varies(expression, escape));
    }

    pub(super) fn template(&mut self, template: &Template, escape: Escape) {
        for part in &template.parts {
            match part {
                Part::Literal(text) if matches!(escape, Escape::JsonText) => {
                    let quoted = serde_json::Value::from(text.as_str()).to_string();
                    self.fixed(&quoted[1..quoted.len() - 1]);
                }
                Part::Literal(text) => self.fixed(text),
                Part::Inserted(expression) => self.varies(expression.clone(), escape),
            }
        }
    }

    fn end_fixed(&mut self) {
        if !self.fixed.is_empty() {
            self.done.push(Piece::Fixed(std::mem::take(&mut self.fixed).into()));
        }
    }

    pub(super) fn finish(mut self) -> Vec<Piece> {
        self.end_fixed();
        self.done
    }

    /// The bytes, when nothing varies.
    pub(super) fn constant(&self) -> Option<&[u8]> {
        self.done.is_empty().then_some(&self.fixed)
    }
}

impl Request {
    /// The bytes that go out; none needed when they never vary.
    ///
    /// # Errors
    /// When an expression has no value now.
    pub(crate) fn render(&self, scope: &Scope<'_>) -> Result<Bytes, NoValue> {
        if let ([Piece::Fixed(bytes)], None) = (self.pieces.as_slice(), &self.body) {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(512);
        render(&self.pieces, scope, &mut bytes)?;
        if let Some(body) = &self.body {
            let mut rendered = Vec::with_capacity(256);
            render(body, scope, &mut rendered)?;
            bytes.extend_from_slice(
                format!("content-length: {}\r\n\r\n", rendered.len()).as_bytes(),
            );
            bytes.extend_from_slice(&rendered);
        }
        Ok(bytes.into())
    }
}

impl Request {
    /// The lists of what a user made that it takes or picks from.
    pub(crate) fn kept_lists(&self, into: &mut Vec<usize>) {
        for piece in self.pieces.iter().chain(self.body.iter().flatten()) {
            if let Piece::Varies(expression, _) = piece {
                expression.kept_lists(into);
            }
        }
    }

    /// Whether the request holds something that an earlier answer brought.
    pub(crate) fn reads_saved(&self) -> bool {
        let varies = |piece: &Piece| match piece {
            Piece::Fixed(_) => false,
            Piece::Varies(expression, _) => expression.reads_saved(),
        };
        // What is written varies by its nature; only what is read must.
        let starts = self.pieces.first();
        let is_get = matches!(starts, Some(Piece::Fixed(bytes)) if bytes.starts_with(b"GET "));
        is_get && self.pieces.iter().any(varies)
    }
}

pub(crate) fn render(
    pieces: &[Piece],
    scope: &Scope<'_>,
    into: &mut Vec<u8>,
) -> Result<(), NoValue> {
    for piece in pieces {
        match piece {
            Piece::Fixed(bytes) => into.extend_from_slice(bytes),
            Piece::Varies(expression, escape) => escape.write(&expression.value(scope)?, into),
        }
    }
    Ok(())
}
