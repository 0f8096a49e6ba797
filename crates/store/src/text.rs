//! Text search: the terms of `domain::text` are all that both engines index,
//! and BM25 is computed here with the scope's own statistics, so that the same
//! text gives the same answer on both.
//!
//! A document (a message or a memory) is in one scope: a user, a session of
//! nobody, or the whole organisation. Every token of a document begins with its
//! scope, marked as no text can, so that a word has postings in each scope apart
//! and a search costs what it finds there, however common the word is elsewhere.
//! What else a search narrows by are tokens too ([`Mark`]).

use std::collections::HashMap;

use agentry_domain::graph::GroupId;
use agentry_domain::text::terms as tokens;
use agentry_domain::{MemoryId, MessageId, OrgId, SessionId};

use crate::counters::{TEXT_DOCUMENTS, TEXT_TOKENS};
use crate::sql::statements;
use crate::value::{self, Columns, Value, values};
use crate::write::Write;
use crate::{Result, Store};

/// Different terms of a query that are looked up; further ones are left out.
pub const QUERY_TERMS_MAX: usize = 32;
/// Newest matches that are scored.
pub const CANDIDATES_MAX: u32 = 500;
const CANDIDATES_FEW: u64 = CANDIDATES_MAX as u64;
/// The bytes of a document's tokens together; what a longer text says further
/// back cannot be found. PostgreSQL's tsvector holds at most 1 MiB.
const DOCUMENT_BYTES_MAX: usize = 768 << 10;
/// Terms in more than one of this many documents are dropped while rarer remain.
const COMMON_TERM_ONE_IN: u64 = 10;
/// BM25's term saturation and length normalisation (Robertson and Zaragoza,
/// 2009), tuned for conversational turns.
const BM25_K1: f64 = 0.9;
const BM25_B: f64 = 0.4;
/// Scopes whose statistics are read in one statement.
const COUNTED_SCOPES: usize = 3;
/// The session of a document that is no message: none.
const NO_SESSION: SessionId = SessionId::from_bytes([0; 16]);
/// Bytes of a scope that its tokens begin with: the last ones, which are random
/// in a session's id too. A search compares the whole scope as well.
const SCOPE_BYTES: usize = 6;
/// What each token of a document begins with: [`SCOPE_MARK`] and the hex digits.
const SCOPE_PREFIX_BYTES: usize = SCOPE_MARK.len_utf8() + 2 * SCOPE_BYTES;
/// Begins a scope's tokens. Not a letter or digit, so no text has such a token;
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
    TEXT_COUNT_ONE = sqlite "insert into counter (org, kind, key, n) \
        select org, $1, scope, -1 from text_doc where org = $2 and id = $3 \
        on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, scope, -1 from text_doc where org = $2 and id = $3";
    TEXT_LENGTH_ONE = sqlite "insert into counter (org, kind, key, n) \
        select org, $1, scope, -length from text_doc where org = $2 and id = $3 \
        on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, scope, -length from text_doc where org = $2 and id = $3";
    TEXT_UNINDEX_ONE = sqlite "delete from text_index where rowid in \
        (select doc from text_doc where org = $1 and id = $2)" postgres "";
    TEXT_DELETE_ONE = "delete from text_doc where org = $1 and id = $2";
    // One statement for all scopes of a search: most runs find out here that
    // there are no memories, and pay nothing else for them. On PostgreSQL each counter is
    // looked up by its whole key: grouping would read all of an organisation's in order.
    TEXT_STATISTICS = sqlite "select kind, key, n from counter where org = $1 \
        and kind in ('text_documents', 'text_tokens') and key in ($2, $3, $4)"
        postgres "select kinds.kind, keys.key, (coalesce((select n from counter where org = $1 \
        and kind = kinds.kind and key = keys.key), 0) + coalesce((select sum(n) \
        from counter_change where org = $1 and kind = kinds.kind and key = keys.key), 0))::bigint \
        from (values ('text_documents'), ('text_tokens')) as kinds (kind) \
        cross join (select $2::bytea union select $3::bytea union select $4::bytea) as keys (key)";
    TEXT_MATCHES = sqlite "select count(*) from (select 1 from text_index \
        where text_index match $1 limit $2)"
        postgres "select count(*) from (select 1 from text_doc \
        where terms @@ $1::text::tsquery limit $2) as counted";
    TEXT_CANDIDATES = sqlite "select d.id, d.session, d.length, d.tokens from text_index i \
        join text_doc d on d.doc = i.rowid where text_index match $1 and d.org = $2 \
        and d.scope in ($3, $4) order by i.rowid desc limit $5"
        postgres "with found as materialized (select org, id, session, scope, length, tokens \
        from text_doc where terms @@ $1::text::tsquery) select id, session, length, tokens \
        from found where org = $2 and scope in ($3, $4) order by id desc limit $5";
}

/// Whose documents a search looks at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope([u8; 16]);

impl Scope {
    /// Everything said by and to a user of an organisation.
    pub fn user(org: OrgId, user_id: &str) -> Self {
        Self(digest(&[b"user", &org.to_bytes(), user_id.as_bytes()]))
    }

    /// One session that belongs to nobody.
    pub fn session(session: SessionId) -> Self {
        Self(session.to_bytes())
    }

    /// The memories that only this user of an organisation finds.
    pub fn memories_of(org: OrgId, user_id: &str) -> Self {
        Self(digest(&[b"memories of", &org.to_bytes(), user_id.as_bytes()]))
    }

    /// The memories that everyone in an organisation finds.
    pub fn memories(org: OrgId) -> Self {
        Self(digest(&[b"memories", &org.to_bytes()]))
    }

    /// The episodes of a group. Those of a run are its messages, which are found where
    /// the run's user, or its session, has them.
    pub fn episodes(org: OrgId, group: &GroupId) -> Self {
        if let Some(user_id) = group.of_user() {
            return Self::user(org, user_id);
        }
        if let Some(session) = group.of_session() {
            return Self::session(session);
        }
        Self(digest(&[b"episodes", &org.to_bytes(), group.as_str().as_bytes()]))
    }

    /// The facts of a group.
    pub fn facts(org: OrgId, group: &GroupId) -> Self {
        Self(digest(&[b"facts", &org.to_bytes(), group.as_str().as_bytes()]))
    }

    /// A token as it stands in this scope.
    fn token(self, token: &str) -> String {
        marked(&self.0[16 - SCOPE_BYTES..]) + token
    }
}

/// Something else than its words by which a document is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark([u8; 16]);

impl Mark {
    /// A field that has this value.
    pub fn of(field: &str, value: &str) -> Self {
        Self(digest(&[b"mark", field.as_bytes(), b"=", value.as_bytes()]))
    }

    /// A field that has no value.
    pub fn none(field: &str) -> Self {
        Self(digest(&[b"mark", field.as_bytes()]))
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// A token as a text has it, of one that stands in a document.
fn unscoped(token: &str) -> &str {
    token.get(SCOPE_PREFIX_BYTES..).unwrap_or_default()
}

fn marked(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut token = String::with_capacity(34);
    token.push(SCOPE_MARK);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(token, "{byte:02x}");
    }
    token
}

/// Where a search looks: in one scope or in two, at documents that have one
/// mark of each list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sought {
    scopes: [Scope; 2],
    marks: Vec<Vec<Mark>>,
}

impl Sought {
    /// Everything in a scope.
    pub fn within(scope: Scope) -> Self {
        Self::within_either(scope, scope)
    }

    /// Everything in two scopes.
    pub fn within_either(one: Scope, other: Scope) -> Self {
        Self { scopes: [one, other], marks: Vec::new() }
    }

    /// Of that, what has one of these marks.
    #[must_use]
    pub fn marked(mut self, any: Vec<Mark>) -> Self {
        self.marks.push(any);
        self
    }

    fn scopes(&self) -> &[Scope] {
        if self.scopes[0] == self.scopes[1] { &self.scopes[..1] } else { &self.scopes }
    }
}

/// A document that matches a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The id of the message or memory.
    pub id: [u8; 16],
    /// A message's session.
    pub session: SessionId,
    /// BM25.
    pub score: f64,
    /// The share of the query's weight that the document holds, 0 to 1.
    pub coverage: f64,
}

/// What may answer a query, and what is known of its scope.
#[derive(Clone, Debug, Default)]
pub struct TextPool {
    /// How many documents the scope has.
    pub documents: u64,
    /// How many terms they have on average.
    pub mean_length: f64,
    /// In how many documents each term of the query is.
    pub counts: HashMap<String, u64>,
    /// The documents, newest first.
    pub found: Vec<PoolDocument>,
}

/// A document that may answer.
#[derive(Clone, Debug)]
pub struct PoolDocument {
    /// Its id.
    pub id: [u8; 16],
    /// Its terms.
    pub tokens: Vec<String>,
}

impl Write {
    /// Makes a message findable in a scope.
    pub fn text_insert(&mut self, id: MessageId, session: SessionId, scope: Scope, content: &str) {
        self.text_add((id.to_bytes(), session), scope, &[], content);
    }

    /// Makes a memory findable in a scope, by its words and its marks.
    pub fn text_insert_memory(
        &mut self,
        id: MemoryId,
        scope: Scope,
        marks: &[Mark],
        content: &str,
    ) {
        self.text_add((id.to_bytes(), NO_SESSION), scope, marks, content);
    }

    /// Makes an episode or a fact findable in a scope.
    pub(crate) fn text_insert_graph(&mut self, id: [u8; 16], scope: Scope, content: &str) {
        self.text_add((id, NO_SESSION), scope, &[], content);
    }

    fn text_add(
        &mut self,
        (id, session): ([u8; 16], SessionId),
        scope: Scope,
        marks: &[Mark],
        content: &str,
    ) {
        let mut tokens = tokens(content);
        let mut room = DOCUMENT_BYTES_MAX;
        let fit = tokens.iter().take_while(|token| {
            let bytes = SCOPE_PREFIX_BYTES + token.len();
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        tokens.truncate(fit.count());
        if tokens.is_empty() {
            return;
        }
        let length = i64::try_from(tokens.len()).unwrap_or(i64::MAX);
        let marks = marks.iter().map(|mark| marked(&mark.0));
        let all: Vec<String> = marks.chain(tokens).map(|token| scope.token(&token)).collect();
        self.add(&TEXT_INSERT, values![self.org, id, session, scope.0, length, all.join(" ")]);
        self.full_text.push((&TEXT_INDEX, values![self.org, id]));
        self.count(TEXT_DOCUMENTS, &scope.0, 1);
        self.count(TEXT_TOKENS, &scope.0, length);
    }

    /// Forgets a document.
    pub(crate) fn text_forget(&mut self, id: [u8; 16]) {
        self.add(&TEXT_COUNT_ONE, values![TEXT_DOCUMENTS, self.org, id]);
        self.add(&TEXT_LENGTH_ONE, values![TEXT_TOKENS, self.org, id]);
        self.add(&TEXT_UNINDEX_ONE, values![self.org, id]);
        self.add(&TEXT_DELETE_ONE, values![self.org, id]);
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
    id: [u8; 16],
    session: SessionId,
    length: i64,
    tokens: String,
}

pub(crate) fn candidate(row: &mut Columns<'_>) -> Result<Candidate> {
    Ok(Candidate {
        id: row.id()?,
        session: SessionId::from_bytes(row.id()?),
        length: row.int()?,
        tokens: row.text()?,
    })
}

/// One statistic of one scope: which, of what, and how much.
pub(crate) fn statistic(row: &mut Columns<'_>) -> Result<(String, Vec<u8>, i64)> {
    Ok((row.text()?, row.bytes()?, row.int()?))
}

impl Store {
    /// The documents that answer a query best, best first, at most `limit`.
    pub async fn text_search(
        &self,
        org: OrgId,
        sought: &Sought,
        query: &str,
        limit: usize,
    ) -> Result<Vec<Hit>> {
        let found = self.text_search_each(org, &[sought], query, limit).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// The same in several places, each with its own statistics.
    pub async fn text_search_each(
        &self,
        org: OrgId,
        places: &[&Sought],
        query: &str,
        limit: usize,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut terms = tokens(query);
        terms.sort_unstable();
        terms.dedup();
        terms.truncate(QUERY_TERMS_MAX);
        if terms.is_empty() {
            return Ok(vec![Vec::new(); places.len()]);
        }
        let statistics = self.text_statistics(org, places).await?;
        let mut found = Vec::with_capacity(places.len());
        for (sought, (documents, tokens)) in places.iter().zip(statistics) {
            found.push(match documents {
                0 => Vec::new(),
                _ => self.text_rank(org, sought, &terms, (documents, tokens), limit).await?,
            });
        }
        Ok(found)
    }

    /// How many documents there are in each place, with how many tokens.
    async fn text_statistics(&self, org: OrgId, places: &[&Sought]) -> Result<Vec<(u64, u64)>> {
        let scopes: Vec<Scope> =
            places.iter().flat_map(|sought| sought.scopes()).copied().collect();
        let mut rows = Vec::new();
        for several in scopes.chunks(COUNTED_SCOPES) {
            let at =
                |nth: usize| several.get(nth).or(several.first()).map(|scope| scope.0.to_vec());
            let keys = [at(0), at(1), at(2)].map(Option::unwrap_or_default);
            let mut bound = values![org];
            bound.extend(keys.map(Value::from));
            rows.extend(self.rows(&TEXT_STATISTICS, bound, statistic).await?);
        }
        let sum = |sought: &Sought, kind: &str| {
            let of = |(it, key, _): &&(String, Vec<u8>, i64)| {
                it == kind && sought.scopes().iter().any(|scope| scope.0 == **key)
            };
            let n: i64 = rows.iter().filter(of).map(|(_, _, n)| *n).sum();
            u64::try_from(n).unwrap_or(0)
        };
        Ok(places.iter().map(|it| (sum(it, TEXT_DOCUMENTS), sum(it, TEXT_TOKENS))).collect())
    }

    /// The documents that may answer, with all that ranking them takes: those that have
    /// any of the terms when these are few, otherwise the newest that have the rarest.
    /// `kindred` are terms that may stand for others; they come after those.
    pub async fn text_pool(
        &self,
        org: OrgId,
        sought: &Sought,
        terms: &[String],
        kindred: &[String],
    ) -> Result<TextPool> {
        let terms = &terms[..terms.len().min(QUERY_TERMS_MAX)];
        let kindred = &kindred[..kindred.len().min(QUERY_TERMS_MAX - terms.len())];
        let statistics = self.text_statistics(org, &[sought]).await?;
        let (documents, tokens) = statistics.first().copied().unwrap_or_default();
        let all: Vec<String> = terms.iter().chain(kindred).cloned().collect();
        if documents == 0 || all.is_empty() {
            return Ok(TextPool::default());
        }
        let every: Vec<&String> = all.iter().collect();
        let matches = match documents {
            0..=CANDIDATES_FEW => documents,
            _ => self.text_matches(sought, &every).await?,
        };
        let (weighed, candidates) = if matches <= CANDIDATES_FEW {
            let bound = self.matching(org, sought, &every);
            let candidates = self.scan(&TEXT_CANDIDATES, bound, candidate).await?;
            let weighed = all.iter().map(|term| count(term.clone(), &candidates)).collect();
            (weighed, candidates)
        } else {
            let own = self.text_weigh(sought, terms, documents).await?;
            let weighed: Vec<(String, u64)> =
                own.into_iter().chain(self.text_rare(sought, kindred, documents).await?).collect();
            let (own, other) = weighed.split_at(terms.len());
            let mut chosen = choose(own, documents);
            let held = |chosen: &[&String]| -> u64 {
                weighed.iter().filter(|(term, _)| chosen.contains(&term)).map(|(_, n)| n).sum()
            };
            let mut room = CANDIDATES_FEW.saturating_sub(held(&chosen));
            for (term, n) in other.iter().filter(|(_, n)| *n > 0) {
                if *n <= room {
                    room -= n;
                    chosen.push(term);
                }
            }
            if chosen.is_empty() {
                return Ok(TextPool::default());
            }
            let bound = self.matching(org, sought, &chosen);
            let candidates = self.scan(&TEXT_CANDIDATES, bound, candidate).await?;
            (weighed, candidates)
        };
        let tokens_of = |candidate: Candidate| PoolDocument {
            id: candidate.id,
            tokens: candidate.tokens.split(' ').map(|token| unscoped(token).to_owned()).collect(),
        };
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let mean_length = tokens as f64 / documents as f64;
        Ok(TextPool {
            documents,
            mean_length,
            counts: weighed.into_iter().collect(),
            found: candidates.into_iter().map(tokens_of).collect(),
        })
    }

    async fn text_rank(
        &self,
        org: OrgId,
        sought: &Sought,
        terms: &[String],
        (documents, tokens): (u64, u64),
        limit: usize,
    ) -> Result<Vec<Hit>> {
        let all: Vec<&String> = terms.iter().collect();
        let matches = match documents {
            0..=CANDIDATES_FEW => documents,
            _ => self.text_matches(sought, &all).await?,
        };
        if matches == 0 {
            return Ok(Vec::new());
        }
        if matches <= CANDIDATES_FEW {
            // All that match are candidates, and tell how common each term is.
            let bound = self.matching(org, sought, &all);
            let candidates = self.rows(&TEXT_CANDIDATES, bound, candidate).await?;
            let weighed = terms.iter().map(|term| count(term.clone(), &candidates)).collect();
            let query = Query { weighed, documents, tokens };
            return Ok(query.rank(candidates, limit));
        }
        let weighed = self.text_weigh(sought, terms, documents).await?;
        let chosen = choose(&weighed, documents);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let bound = self.matching(org, sought, &chosen);
        let candidates = self.scan(&TEXT_CANDIDATES, bound, candidate).await?;
        Ok(Query { weighed, documents, tokens }.rank(candidates, limit))
    }

    /// How many documents have any of the terms, counted no further than needed
    /// to tell that they are too many to look at all: most questions have nothing,
    /// or little, to do with most of what is kept, and this many are counted
    /// faster than another thread is woken.
    async fn text_matches(&self, sought: &Sought, terms: &[&String]) -> Result<u64> {
        let bound = values![self.match_any(sought, terms), i64::from(CANDIDATES_MAX) + 1];
        let counted = self.point(&TEXT_MATCHES, bound, value::int).await?;
        Ok(counted.map_or(0, i64::unsigned_abs))
    }

    /// In how many of many documents each term is, counted no further than
    /// needed to tell that it is common.
    async fn text_weigh(
        &self,
        sought: &Sought,
        terms: &[String],
        documents: u64,
    ) -> Result<Vec<(String, u64)>> {
        let count_max = documents / COMMON_TERM_ONE_IN + u64::from(CANDIDATES_MAX);
        let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
        let bound = terms.iter().map(|term| values![self.match_any(sought, &[term]), count_max]);
        let counted = self.scan_each(&TEXT_MATCHES, bound.collect(), value::int).await?;
        let counts = counted.into_iter().map(|rows| rows.first().map_or(0, |n| n.unsigned_abs()));
        Ok(terms.iter().cloned().zip(counts).collect())
    }

    /// In how many documents each of these terms is, if these are few; one that is in
    /// more than can be looked at counts as common, and is not counted further.
    async fn text_rare(
        &self,
        sought: &Sought,
        terms: &[String],
        documents: u64,
    ) -> Result<Vec<(String, u64)>> {
        let count_max = i64::from(CANDIDATES_MAX) + 1;
        let bound = terms.iter().map(|term| values![self.match_any(sought, &[term]), count_max]);
        let counted = self.scan_each(&TEXT_MATCHES, bound.collect(), value::int).await?;
        let counts = counted.into_iter().map(|rows| match rows.first().map(|n| n.unsigned_abs()) {
            Some(n) if n > CANDIDATES_FEW => n.max(documents / COMMON_TERM_ONE_IN),
            n => n.unwrap_or(0),
        });
        Ok(terms.iter().cloned().zip(counts).collect())
    }

    fn matching(&self, org: OrgId, sought: &Sought, terms: &[&String]) -> Vec<Value> {
        let [one, other] = sought.scopes;
        let newest = i64::from(CANDIDATES_MAX);
        values![self.match_any(sought, terms), org, one.0, other.0, newest]
    }

    /// The engine's query for documents that are sought and have any of these terms.
    fn match_any(&self, sought: &Sought, terms: &[&String]) -> String {
        let (quote, and, or) =
            if self.is_sqlite() { ('"', " AND ", " OR ") } else { ('\'', " & ", " | ") };
        let any = |tokens: Vec<String>| {
            let quoted: Vec<String> =
                tokens.iter().map(|token| format!("{quote}{token}{quote}")).collect();
            format!("({})", quoted.join(or))
        };
        let scoped = |tokens: Vec<String>| -> Vec<String> {
            let scopes = sought.scopes().iter();
            scopes.flat_map(|scope| tokens.iter().map(|token| scope.token(token))).collect()
        };
        let marks = sought.marks.iter().map(|any| any.iter().map(|mark| marked(&mark.0)).collect());
        let terms = terms.iter().map(|term| (*term).clone()).collect();
        // The words first: they are rarer than marks.
        let all: Vec<String> =
            [terms].into_iter().chain(marks).map(|tokens| any(scoped(tokens))).collect();
        all.join(and)
    }
}

/// A term with the number of candidates that hold it.
fn count(term: String, candidates: &[Candidate]) -> (String, u64) {
    let holds =
        |candidate: &&Candidate| candidate.tokens.split(' ').any(|token| unscoped(token) == term);
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
                let token = unscoped(token);
                if let Ok(place) = self.weighed.binary_search_by(|(term, _)| (**term).cmp(token)) {
                    frequencies[place] += 1.0;
                }
            }
            let norm = BM25_K1 * (1.0 - BM25_B + BM25_B * candidate.length as f64 / mean);
            let held = || weights.iter().zip(&frequencies).filter(|(_, f)| **f > 0.0);
            Hit {
                id: candidate.id,
                session: candidate.session,
                score: held().map(|(w, f)| w * f * (BM25_K1 + 1.0) / (f + norm)).sum(),
                coverage: held().map(|(w, _)| w).sum::<f64>() / whole,
            }
        };
        let mut hits: Vec<Hit> = candidates.into_iter().map(score).collect();
        // Equal scores: the newer one, so that the order is the same everywhere.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.id.cmp(&a.id)));
        hits.truncate(limit);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_makes_a_token_of_a_scope() {
        let token = Scope([7; 16]).token("dog");
        assert_eq!((token.as_str(), unscoped(&token)), ("§070707070707dog", "dog"));
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
