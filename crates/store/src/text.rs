//! Text search: the terms of `domain::text` are all that both engines index,
//! and BM25 is computed here with the scope's own statistics, so that the same
//! text gives the same answer on both.
//!
//! A document is in one scope (a user, or a session of nobody). The scope is a
//! token of the document too, with a mark that no text can produce, so that a
//! search reads the postings of its own scope only.

use agentry_domain::text::terms as tokens;
use agentry_domain::{MessageId, OrgId, SessionId};

use crate::counters::{TEXT_DOCUMENTS, TEXT_TOKENS};
use crate::sql::statements;
use crate::value::{self, Columns, Value, values};
use crate::write::Write;
use crate::{Result, Store};

/// Different terms of a query that are looked up; further ones are left out.
pub const QUERY_TERMS_MAX: usize = 32;
/// Newest matches that are scored.
pub const CANDIDATES_MAX: u32 = 500;
/// The bytes of a document's terms together; what a longer text says further
/// back cannot be found.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Terms in more than one of this many documents are dropped while rarer remain.
const COMMON_TERM_ONE_IN: u64 = 10;
/// BM25's term saturation and length normalisation (Robertson and Zaragoza,
/// 2009), tuned for conversational turns.
const BM25_K1: f64 = 0.9;
const BM25_B: f64 = 0.4;
/// Begins a scope's token. Not a letter or digit, so no text has such a token;
/// not ASCII, so FTS5's tokenizer keeps it.
const SCOPE_MARK: char = '§';

statements! {
    TEXT_INSERT = sqlite "insert into text_doc (org, id, session, scope, length, tokens) \
        values ($1, $2, $3, $4, $5, $6)"
        postgres "insert into text_doc (org, id, session, scope, length, tokens, terms) \
        values ($1, $2, $3, $4, $5, $6, array_to_tsvector(string_to_array($6, ' ')))";
    TEXT_INDEX = sqlite "insert into text_index (rowid, tokens) \
        select doc, tokens from text_doc where org = $1 and id = $2" postgres "";
    // The scope of a session's documents lasts as long as the session.
    TEXT_COUNT_SESSION = sqlite "insert into counter (org, kind, key, n) \
        select org, $1, scope, -count(*) from text_doc where org = $2 and session = $3 \
        group by org, scope on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, scope, -count(*) from text_doc where org = $2 and session = $3 \
        group by org, scope";
    TEXT_LENGTH_SESSION = sqlite "insert into counter (org, kind, key, n) \
        select org, $1, scope, -sum(length) from text_doc where org = $2 and session = $3 \
        group by org, scope on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, scope, -sum(length)::bigint from text_doc \
        where org = $2 and session = $3 group by org, scope";
    TEXT_UNINDEX_SESSION = sqlite "delete from text_index where rowid in \
        (select doc from text_doc where org = $1 and session = $2)" postgres "";
    TEXT_DELETE_SESSION = "delete from text_doc where org = $1 and session = $2";
    TEXT_TERM_COUNT = sqlite "select count(*) from (select 1 from text_index \
        where text_index match $1 limit $2)"
        postgres "select count(*) from (select 1 from text_doc \
        where terms @@ $1::text::tsquery limit $2) as counted";
    TEXT_CANDIDATES = sqlite "select d.id, d.session, d.length, d.tokens from text_index i \
        join text_doc d on d.doc = i.rowid where text_index match $1 and d.org = $2 \
        and d.scope = $3 order by i.rowid desc limit $4"
        postgres "with found as materialized (select org, id, session, scope, length, tokens \
        from text_doc where terms @@ $1::text::tsquery) select id, session, length, tokens \
        from found where org = $2 and scope = $3 order by id desc limit $4";
}

/// Whose documents a search looks at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope([u8; 16]);

impl Scope {
    /// Everything said by and to a user of an organisation.
    pub fn user(org: OrgId, user_id: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"user");
        hasher.update(&org.to_bytes());
        hasher.update(user_id.as_bytes());
        let mut scope = [0; 16];
        scope.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(scope)
    }

    /// One session that belongs to nobody.
    pub fn session(session: SessionId) -> Self {
        Self(session.to_bytes())
    }

    fn token(self) -> String {
        use std::fmt::Write as _;
        let mut token = String::with_capacity(34);
        token.push(SCOPE_MARK);
        for byte in self.0 {
            let _ = write!(token, "{byte:02x}");
        }
        token
    }
}

/// A document that matches a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The message.
    pub message: MessageId,
    /// Its session.
    pub session: SessionId,
    /// BM25.
    pub score: f64,
    /// The share of the query's weight that the document holds, 0 to 1.
    pub coverage: f64,
}

impl Write {
    /// Makes a message findable in a scope.
    pub fn text_insert(&mut self, id: MessageId, session: SessionId, scope: Scope, content: &str) {
        let mut tokens = tokens(content);
        let mut room = DOCUMENT_BYTES_MAX;
        let fit = tokens.iter().take_while(|token| {
            let fits = token.len() <= room;
            room = room.saturating_sub(token.len());
            fits
        });
        tokens.truncate(fit.count());
        if tokens.is_empty() {
            return;
        }
        let length = i64::try_from(tokens.len()).unwrap_or(i64::MAX);
        let text = format!("{} {}", scope.token(), tokens.join(" "));
        self.add(&TEXT_INSERT, values![self.org, id, session, scope.0, length, text]);
        self.full_text.push((&TEXT_INDEX, values![self.org, id]));
        self.count(TEXT_DOCUMENTS, &scope.0, 1);
        self.count(TEXT_TOKENS, &scope.0, length);
    }

    /// Forgets everything of a session.
    pub(crate) fn text_forget_session(&mut self, session: SessionId) {
        self.add(&TEXT_COUNT_SESSION, values![TEXT_DOCUMENTS, self.org, session]);
        self.add(&TEXT_LENGTH_SESSION, values![TEXT_TOKENS, self.org, session]);
        self.add(&TEXT_UNINDEX_SESSION, values![self.org, session]);
        self.add(&TEXT_DELETE_SESSION, values![self.org, session]);
    }
}

/// A candidate, before it is scored.
pub(crate) struct Candidate {
    id: MessageId,
    session: SessionId,
    length: i64,
    tokens: String,
}

pub(crate) fn candidate(row: &mut Columns<'_>) -> Result<Candidate> {
    Ok(Candidate {
        id: MessageId::from_bytes(row.id()?),
        session: SessionId::from_bytes(row.id()?),
        length: row.int()?,
        tokens: row.text()?,
    })
}

impl Store {
    /// The documents of a scope that answer a query best, best first, at most
    /// `limit`.
    pub async fn text_search(
        &self,
        org: OrgId,
        scope: Scope,
        query: &str,
        limit: usize,
    ) -> Result<Vec<Hit>> {
        let mut terms = tokens(query);
        terms.sort_unstable();
        terms.dedup();
        terms.truncate(QUERY_TERMS_MAX);
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        // On PostgreSQL the counters may not know the newest documents yet.
        let documents = self.counter(org, TEXT_DOCUMENTS, &scope.0).await?;
        if documents == 0 && self.is_sqlite() {
            return Ok(Vec::new());
        }
        let tokens = self.counter(org, TEXT_TOKENS, &scope.0).await?;
        if documents <= u64::from(CANDIDATES_MAX) {
            // All that match are candidates, and tell how common each term is.
            let all: Vec<&String> = terms.iter().collect();
            let bound = self.matching(org, scope, &all);
            let candidates = self.rows(&TEXT_CANDIDATES, bound, candidate).await?;
            let weighed = terms.into_iter().map(|term| count(term, &candidates)).collect();
            let query = Query { weighed, documents, tokens };
            return Ok(query.rank(candidates, limit));
        }
        let weighed = self.text_weigh(scope, terms, documents).await?;
        let chosen = choose(&weighed, documents);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let bound = self.matching(org, scope, &chosen);
        let candidates = self.scan(&TEXT_CANDIDATES, bound, candidate).await?;
        Ok(Query { weighed, documents, tokens }.rank(candidates, limit))
    }

    /// In how many documents of a large scope each term is, counted no further
    /// than needed to tell that it is common.
    async fn text_weigh(
        &self,
        scope: Scope,
        terms: Vec<String>,
        documents: u64,
    ) -> Result<Vec<(String, u64)>> {
        let count_max = documents / COMMON_TERM_ONE_IN + u64::from(CANDIDATES_MAX);
        let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
        let bound = terms.iter().map(|term| values![self.match_any(scope, &[term]), count_max]);
        let counted = self.scan_each(&TEXT_TERM_COUNT, bound.collect(), value::int).await?;
        let counts = counted.into_iter().map(|rows| rows.first().map_or(0, |n| n.unsigned_abs()));
        Ok(terms.into_iter().zip(counts).collect())
    }

    fn matching(&self, org: OrgId, scope: Scope, terms: &[&String]) -> Vec<Value> {
        values![self.match_any(scope, terms), org, scope.0, i64::from(CANDIDATES_MAX)]
    }

    /// The engine's query for documents of the scope with any of these terms.
    fn match_any(&self, scope: Scope, terms: &[&String]) -> String {
        let (quote, and, or) =
            if self.is_sqlite() { ('"', " AND ", " OR ") } else { ('\'', " & ", " | ") };
        let any: Vec<String> = terms.iter().map(|term| format!("{quote}{term}{quote}")).collect();
        format!("{quote}{}{quote}{and}({})", scope.token(), any.join(or))
    }
}

/// A term with the number of candidates that hold it.
fn count(term: String, candidates: &[Candidate]) -> (String, u64) {
    let holds = |candidate: &&Candidate| candidate.tokens.split(' ').any(|token| token == term);
    let n = candidates.iter().filter(holds).count() as u64;
    (term, n)
}

/// The terms to look for in a large scope: the rarest, as long as the candidates
/// they bring fit the bound, and no common one while a rarer one remains.
fn choose(weighed: &[(String, u64)], documents: u64) -> Vec<&String> {
    let mut present: Vec<&(String, u64)> = weighed.iter().filter(|(_, n)| *n > 0).collect();
    present.sort_by_key(|(_, n)| *n);
    let mut sum = 0;
    let mut chosen = Vec::new();
    for (term, n) in present {
        let common = *n > documents / COMMON_TERM_ONE_IN;
        if !chosen.is_empty() && (common || sum + n > u64::from(CANDIDATES_MAX)) {
            break;
        }
        sum += n;
        chosen.push(term);
    }
    chosen
}

/// How much a term tells: BM25's inverse document frequency. A term that the
/// scope never had counts as one it had once; it cannot tell more than that.
fn weight(n: u64, documents: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let (n, documents) = (n.max(1) as f64, documents.max(n) as f64);
    (1.0 + (documents - n + 0.5) / (n + 0.5)).ln()
}

/// A query's terms in sorted order, each with the number of documents that hold
/// it, and its scope's statistics.
struct Query {
    weighed: Vec<(String, u64)>,
    documents: u64,
    tokens: u64,
}

impl Query {
    /// The candidates with their scores, best first.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn rank(&self, candidates: Vec<Candidate>, limit: usize) -> Vec<Hit> {
        let documents = self.documents.max(candidates.len() as u64);
        // In the terms' order, which is sorted.
        let weights: Vec<f64> = self.weighed.iter().map(|(_, n)| weight(*n, documents)).collect();
        let whole: f64 = weights.iter().sum();
        let mean = (self.tokens as f64 / documents as f64).max(1.0);
        let score = |candidate: Candidate| {
            let mut frequencies = vec![0.0; weights.len()];
            for token in candidate.tokens.split(' ') {
                if let Ok(place) = self.weighed.binary_search_by(|(term, _)| (**term).cmp(token)) {
                    frequencies[place] += 1.0;
                }
            }
            let norm = BM25_K1 * (1.0 - BM25_B + BM25_B * candidate.length as f64 / mean);
            let held = || weights.iter().zip(&frequencies).filter(|(_, f)| **f > 0.0);
            Hit {
                message: candidate.id,
                session: candidate.session,
                score: held().map(|(w, f)| w * f * (BM25_K1 + 1.0) / (f + norm)).sum(),
                coverage: held().map(|(w, _)| w).sum::<f64>() / whole,
            }
        };
        let mut hits: Vec<Hit> = candidates.into_iter().map(score).collect();
        // Equal scores: the newer message, so that the order is the same everywhere.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.message.cmp(&a.message)));
        hits.truncate(limit);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_makes_a_scope_token() {
        let token = Scope([7; 16]).token();
        for text in [token.clone(), format!("x{token}y"), format!("\"{token}\"")] {
            assert!(!tokens(&text).contains(&token));
        }
    }

    #[test]
    fn a_rare_word_weighs_more_and_an_unknown_one_no_more_than_the_rarest() {
        assert!(weight(1, 1_000) > weight(100, 1_000));
        assert!((weight(0, 1_000) - weight(1, 1_000)).abs() < f64::EPSILON);
        assert!(weight(1_000, 1_000) > 0.0);
    }

    #[test]
    fn common_terms_are_left_out_while_rarer_remain() {
        let weighed = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect::<Vec<_>>()
        };
        let large = weighed(&[("the", 900), ("dog", 3), ("unknown", 0)]);
        assert_eq!(choose(&large, 10_000), ["dog"]);
        let only_common = weighed(&[("all", 9_000)]);
        assert_eq!(choose(&only_common, 10_000), ["all"]);
        let rare = weighed(&[("a1", 5), ("b1", 9)]);
        assert_eq!(choose(&rare, 1_000), ["a1", "b1"]);
    }
}
