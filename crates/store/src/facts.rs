//! Facts in the store: rows, what they rest on, and what search knows of them.

use agentry_domain::facts::{
    Evidence, FACT_EVIDENCE_SHOWN_MAX, FACTS_COMPARED_MAX, Fact, FactObject,
};
use agentry_domain::graph::GroupId;
use agentry_domain::{
    Code, EpisodeId, Error, FactId, JsonText, NodeId, OrgId, Page, PageRequest, Timestamp,
};
use serde::Serialize;

use crate::graph::{hex, hex_list, rows_json};
use crate::lists::{cursor, list_page};
use crate::sql::{Sql, statements};
use crate::text::Scope;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

/// Facts of a group; the key is the group.
pub(crate) const GRAPH_FACTS: &str = "graph_facts";

statements! {
    FACTS_INSERT = sqlite "insert into graph_fact (org, group_id, id, hash, subject, predicate, \
        object_node, object_text, text, valid_at, invalid_at, created_at, expired_at, confidence, \
        extractor, extractor_version, metadata) select $1, $2, unhex(value ->> 'i'), \
        unhex(value ->> 'h'), unhex(value ->> 's'), value ->> 'p', unhex(value ->> 'n'), \
        value ->> 'o', value ->> 't', value ->> 'v', value ->> 'u', value ->> 'c', value ->> 'x', \
        cast(value ->> 'f' as real), value ->> 'e', value ->> 'r', '{}' from json_each($3)"
        postgres "insert into graph_fact (org, group_id, id, hash, subject, predicate, object_node, \
        object_text, text, valid_at, invalid_at, created_at, expired_at, confidence, extractor, \
        extractor_version, metadata) select $1::bytea, $2::text, decode(r.i, 'hex'), \
        decode(r.h, 'hex'), decode(r.s, 'hex'), r.p, decode(r.n, 'hex'), r.o, r.t, r.v, r.u, r.c, \
        r.x, r.f, r.e, r.r, '{}' from json_to_recordset($3::text::json) as r (i text, h text, \
        s text, p text, n text, o text, t text, v bigint, u bigint, c bigint, x bigint, \
        f double precision, e text, r text)";
    FACTS_CLOSE = sqlite "update graph_fact set invalid_at = ended.u, expired_at = ended.x \
        from (select unhex(value ->> 'i') as i, value ->> 'u' as u, value ->> 'x' as x \
        from json_each($1)) as ended where graph_fact.org = $2 and graph_fact.group_id = $3 \
        and graph_fact.id = ended.i"
        postgres "update graph_fact as f set invalid_at = r.u, expired_at = r.x \
        from json_to_recordset($1::text::json) as r (i text, u bigint, x bigint) \
        where f.org = $2 and f.group_id = $3 and f.id = decode(r.i, 'hex')";
    EVIDENCE_INSERT = sqlite "insert into graph_fact_evidence (org, group_id, fact, episode, quote) \
        select $1, $2, unhex(value ->> 'f'), unhex(value ->> 'e'), value ->> 'q' \
        from json_each($3) where true on conflict (org, group_id, fact, episode) do nothing"
        postgres "insert into graph_fact_evidence (org, group_id, fact, episode, quote) \
        select $1::bytea, $2::text, decode(r.f, 'hex'), decode(r.e, 'hex'), r.q \
        from json_to_recordset($3::text::json) as r (f text, e text, q text) \
        on conflict (org, group_id, fact, episode) do nothing";
    EVIDENCE_OF = "select fact, episode, quote from graph_fact_evidence where org = $1 \
        and group_id = $2 and fact = $3 order by episode limit $4";
    EVIDENCE_BY_EPISODE = "select fact from graph_fact_evidence where org = $1 and group_id = $2 \
        and episode = $3 order by fact";
    EVIDENCE_OTHER = "select fact from graph_fact_evidence where org = $1 and group_id = $2 \
        and fact = $3 and episode <> $4 limit 1";
    EVIDENCE_DELETE_EPISODE = "delete from graph_fact_evidence where org = $1 and group_id = $2 \
        and episode = $3";
    EVIDENCE_COUNTED = "select 1 where (select count(*) from graph_fact_evidence where org = $1 \
        and group_id = $2 and episode = $3) = $4";
    FACT_DELETE = "delete from graph_fact where org = $1 and group_id = $2 and id = $3";
    FACT_GET = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id = $3";
    FACTS_GET = sqlite "select f.id, f.subject, f.predicate, f.object_node, f.object_text, f.text, \
        f.valid_at, f.invalid_at, f.created_at, f.expired_at, f.confidence, f.extractor, \
        f.extractor_version, f.metadata from json_each($1) as j cross join graph_fact as f \
        on f.org = $2 and f.group_id = $3 and f.id = unhex(j.value)"
        postgres "select f.id, f.subject, f.predicate, f.object_node, f.object_text, f.text, \
        f.valid_at, f.invalid_at, f.created_at, f.expired_at, f.confidence, f.extractor, \
        f.extractor_version, f.metadata from json_array_elements_text($1::text::json) as j (value) \
        join graph_fact as f on f.org = $2 and f.group_id = $3 and f.id = decode(j.value, 'hex')";
    FACTS_OF = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and subject = $3 and predicate = $4 \
        order by id desc limit $5";
    // A moment after every other one asks for facts of every time: the last condition
    // is then true of all.
    FACT_LIST = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id < $3 and created_at <= $4 \
        and ($5 = 9223372036854775807 or ((valid_at is null or valid_at <= $5) \
        and (invalid_at is null or invalid_at > $5 or expired_at > $4))) \
        order by id desc limit $6 offset $7";
    FACT_LIST_PREDICATE = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id < $3 and created_at <= $4 \
        and ($5 = 9223372036854775807 or ((valid_at is null or valid_at <= $5) \
        and (invalid_at is null or invalid_at > $5 or expired_at > $4))) and predicate = $6 \
        order by id desc limit $7 offset $8";
    FACT_LIST_SUBJECT = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id < $3 and created_at <= $4 \
        and ($5 = 9223372036854775807 or ((valid_at is null or valid_at <= $5) \
        and (invalid_at is null or invalid_at > $5 or expired_at > $4))) and subject = $6 \
        order by id desc limit $7 offset $8";
    FACT_LIST_BOTH = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id < $3 and created_at <= $4 \
        and ($5 = 9223372036854775807 or ((valid_at is null or valid_at <= $5) \
        and (invalid_at is null or invalid_at > $5 or expired_at > $4))) and subject = $6 \
        and predicate = $7 order by id desc limit $8 offset $9";
    FACT_LIST_OBJECT = "select id, subject, predicate, object_node, object_text, text, valid_at, \
        invalid_at, created_at, expired_at, confidence, extractor, extractor_version, metadata \
        from graph_fact where org = $1 and group_id = $2 and id < $3 and created_at <= $4 \
        and ($5 = 9223372036854775807 or ((valid_at is null or valid_at <= $5) \
        and (invalid_at is null or invalid_at > $5 or expired_at > $4))) and object_node = $6 \
        and object_node is not null order by id desc limit $7 offset $8";
}

/// Which facts a list shows, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactFilter {
    /// About this node.
    pub subject: Option<NodeId>,
    /// Of this relation.
    pub predicate: Option<String>,
    /// To this node; alone.
    pub object: Option<NodeId>,
    /// That held then; none for those of every time.
    pub as_of: Option<Timestamp>,
    /// As far as was known then; none for all that is known.
    pub known_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Row<'a> {
    i: String,
    h: String,
    s: String,
    p: &'a str,
    n: Option<String>,
    o: Option<&'a str>,
    t: &'a str,
    v: Option<i64>,
    u: Option<i64>,
    c: i64,
    x: Option<i64>,
    f: f64,
    e: &'a str,
    r: &'a str,
}

/// What tells a fact from others: what it says, and from when.
fn hash(fact: &Fact) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fact.subject.to_bytes());
    hasher.update(fact.predicate.as_bytes());
    hasher.update(&[0]);
    match &fact.object {
        FactObject::Node(id) => hasher.update(&id.to_bytes()),
        FactObject::Text(text) => hasher.update(text.as_bytes()),
    };
    hasher.update(&[0]);
    hasher.update(&fact.valid_at.map_or(i64::MIN, Timestamp::micros).to_be_bytes());
    hasher.update(&fact.created_at.micros().to_be_bytes());
    hasher.update(&fact.id.to_bytes());
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

/// A fact that ends, and since when that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactClose {
    /// The fact.
    pub id: FactId,
    /// Until when it held.
    pub invalid_at: Timestamp,
    /// Since when that is known.
    pub expired_at: Timestamp,
}

#[derive(Serialize)]
struct CloseRow {
    i: String,
    u: i64,
    x: i64,
}

#[derive(Serialize)]
struct EvidenceRow<'a> {
    f: String,
    e: String,
    q: &'a str,
}

impl Write {
    /// Stores new facts, findable by their texts.
    pub fn facts_insert(&mut self, group: &GroupId, facts: &[Fact]) {
        if facts.is_empty() {
            return;
        }
        let row = |fact: &'_ Fact| {
            let (node, text) = match &fact.object {
                FactObject::Node(id) => (Some(hex(id.to_bytes())), None),
                FactObject::Text(text) => (None, Some(text.clone())),
            };
            (hex(hash(fact)), node, text)
        };
        let parts: Vec<_> = facts.iter().map(row).collect();
        let rows: Vec<Row<'_>> = facts
            .iter()
            .zip(&parts)
            .map(|(fact, (hash, node, text))| Row {
                i: hex(fact.id.to_bytes()),
                h: hash.clone(),
                s: hex(fact.subject.to_bytes()),
                p: &fact.predicate,
                n: node.clone(),
                o: text.as_deref(),
                t: &fact.text,
                v: fact.valid_at.map(Timestamp::micros),
                u: fact.invalid_at.map(Timestamp::micros),
                c: fact.created_at.micros(),
                x: fact.expired_at.map(Timestamp::micros),
                f: fact.confidence,
                e: &fact.extractor,
                r: &fact.extractor_version,
            })
            .collect();
        let name = group.as_str().to_owned();
        self.add(&FACTS_INSERT, values![self.org, name.clone(), rows_json(&rows)]);
        let scope = Scope::facts(self.org, group);
        for fact in facts {
            self.text_insert_graph(fact.id.to_bytes(), scope, &fact.text);
        }
        let n = i64::try_from(facts.len()).unwrap_or(i64::MAX);
        self.count(GRAPH_FACTS, name.as_bytes(), n);
    }

    /// Ends facts.
    pub fn facts_close(&mut self, group: &GroupId, closes: &[FactClose]) {
        if closes.is_empty() {
            return;
        }
        let row = |close: &FactClose| CloseRow {
            i: hex(close.id.to_bytes()),
            u: close.invalid_at.micros(),
            x: close.expired_at.micros(),
        };
        let rows: Vec<CloseRow> = closes.iter().map(row).collect();
        self.add(&FACTS_CLOSE, values![rows_json(&rows), self.org, group.as_str().to_owned()]);
    }

    /// Stores what facts rest on.
    pub fn evidence_insert(&mut self, group: &GroupId, evidence: &[(FactId, Evidence)]) {
        if evidence.is_empty() {
            return;
        }
        let row = |(fact, evidence): &'_ (FactId, Evidence)| {
            (hex(fact.to_bytes()), hex(evidence.episode_id.to_bytes()))
        };
        let ids: Vec<_> = evidence.iter().map(row).collect();
        let rows: Vec<EvidenceRow<'_>> = evidence
            .iter()
            .zip(ids)
            .map(|((_, evidence), (f, e))| EvidenceRow { f, e, q: &evidence.quote })
            .collect();
        self.add(&EVIDENCE_INSERT, values![self.org, group.as_str().to_owned(), rows_json(&rows)]);
    }

    /// Guard, behind the deletion of an episode: so many facts rest on it, and no more
    /// since they were looked for.
    pub fn evidence_counted(&mut self, group: &GroupId, episode: EpisodeId, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let changed = || Error::new(Code::Conflict, "an episode was drawn from meanwhile");
        self.add(&EVIDENCE_COUNTED, values![self.org, group.as_str().to_owned(), episode, count])
            .expect_one(Probe::always(changed));
    }

    /// Nothing rests on this episode any more.
    pub fn evidence_delete(&mut self, group: &GroupId, episode: EpisodeId) {
        let name = group.as_str().to_owned();
        self.add(&EVIDENCE_DELETE_EPISODE, values![self.org, name, episode]);
    }

    /// Deletes a fact that rests on nothing, and what search knows of it.
    pub fn fact_delete(&mut self, group: &GroupId, id: FactId) {
        let name = group.as_str().to_owned();
        self.add(&FACT_DELETE, values![self.org, name.clone(), id]);
        self.text_forget(id.to_bytes());
        self.count(GRAPH_FACTS, name.as_bytes(), -1);
    }
}

impl Store {
    /// The fact of a group with this id.
    pub async fn fact_get(&self, org: OrgId, group: &GroupId, id: FactId) -> Result<Option<Fact>> {
        let bound = values![org, group.as_str().to_owned(), id];
        Ok(self.point(&FACT_GET, bound, fact).await?.map(|row| row.of(group)))
    }

    /// The facts of a group with these ids, in no order, without those that are gone.
    pub async fn facts_get(
        &self,
        org: OrgId,
        group: &GroupId,
        ids: &[FactId],
    ) -> Result<Vec<Fact>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let rows =
            self.scan(&FACTS_GET, values![list, org, group.as_str().to_owned()], fact).await?;
        Ok(rows.into_iter().map(|row| row.of(group)).collect())
    }

    /// The newest facts with each of these subjects and predicates.
    pub async fn facts_of(
        &self,
        org: OrgId,
        group: &GroupId,
        of: &[(NodeId, &str)],
    ) -> Result<Vec<Vec<Fact>>> {
        let lists = of
            .iter()
            .map(|(subject, predicate)| {
                let (name, predicate) = (group.as_str().to_owned(), (*predicate).to_owned());
                values![org, name, *subject, predicate, FACTS_COMPARED_MAX]
            })
            .collect();
        let found = self.scan_each(&FACTS_OF, lists, fact).await?;
        let of = |rows: Vec<FactRow>| rows.into_iter().map(|row| row.of(group)).collect();
        Ok(found.into_iter().map(of).collect())
    }

    /// A page of a group's facts, newest first, with how many the group has.
    pub async fn fact_list(
        &self,
        org: OrgId,
        group: &GroupId,
        filter: &FactFilter,
        page: &PageRequest,
    ) -> Result<Page<Fact>> {
        let (after, limit, offset) = cursor(page);
        let name = group.as_str().to_owned();
        let at = |at: Option<Timestamp>| at.map_or(i64::MAX, Timestamp::micros);
        let mut bound = values![org, name.clone(), after, at(filter.known_at), at(filter.as_of)];
        let sql: &'static Sql = match (filter.subject, &filter.predicate, filter.object) {
            (Some(subject), Some(predicate), _) => {
                bound.extend(values![subject, predicate.clone()]);
                &FACT_LIST_BOTH
            }
            (Some(subject), None, _) => {
                bound.push(Value::from(subject));
                &FACT_LIST_SUBJECT
            }
            (None, _, Some(object)) => {
                bound.push(Value::from(object));
                &FACT_LIST_OBJECT
            }
            (None, Some(predicate), None) => {
                bound.push(Value::from(predicate.clone()));
                &FACT_LIST_PREDICATE
            }
            (None, None, None) => &FACT_LIST,
        };
        bound.extend(values![limit, offset]);
        // Filters are few; what they leave out is read here, too.
        let rows = self.list(page, list_page(page, sql, sql), bound, fact).await?;
        let rows = rows.into_iter().map(|row| row.of(group)).collect();
        let total = self.counter(org, GRAPH_FACTS, name.as_bytes()).await?;
        Ok(Page::from_rows(rows, page, total, |fact: &Fact| fact.id.to_bytes()))
    }

    /// What each of these facts rests on, the oldest first, at most so many of each as
    /// are shown.
    pub async fn evidence_of(
        &self,
        org: OrgId,
        group: &GroupId,
        facts: &[FactId],
    ) -> Result<Vec<Vec<Evidence>>> {
        let lists = facts
            .iter()
            .map(|fact| values![org, group.as_str().to_owned(), *fact, FACT_EVIDENCE_SHOWN_MAX])
            .collect();
        self.scan_each(&EVIDENCE_OF, lists, |row| {
            let _fact = row.id()?;
            Ok(Evidence { episode_id: EpisodeId::from_bytes(row.id()?), quote: row.text()? })
        })
        .await
    }

    /// How many facts rest on an episode, and those that rest on nothing else.
    pub async fn facts_resting_on(
        &self,
        org: OrgId,
        group: &GroupId,
        episode: EpisodeId,
    ) -> Result<(usize, Vec<FactId>)> {
        let id = |row: &mut Columns<'_>| Ok(FactId::from_bytes(row.id()?));
        let name = group.as_str();
        let bound = values![org, name.to_owned(), episode];
        let all = self.scan(&EVIDENCE_BY_EPISODE, bound, id).await?;
        let lists = all.iter().map(|fact| values![org, name.to_owned(), *fact, episode]).collect();
        let others = self.scan_each(&EVIDENCE_OTHER, lists, id).await?;
        let count = all.len();
        let alone = all.into_iter().zip(others).filter(|(_, others)| others.is_empty());
        Ok((count, alone.map(|(fact, _)| fact).collect()))
    }
}

struct FactRow(Fact);

impl FactRow {
    fn of(self, group: &GroupId) -> Fact {
        Fact { group_id: group.clone(), ..self.0 }
    }
}

fn fact(row: &mut Columns<'_>) -> Result<FactRow> {
    Ok(FactRow(Fact {
        id: FactId::from_bytes(row.id()?),
        group_id: GroupId::default(),
        subject: NodeId::from_bytes(row.id()?),
        predicate: row.text()?,
        object: match (row.opt_id()?, row.opt_text()?) {
            (Some(node), _) => FactObject::Node(NodeId::from_bytes(node)),
            (None, Some(text)) => FactObject::Text(text),
            (None, None) => return Err(StoreError::unreadable("a fact's object")),
        },
        text: row.text()?,
        valid_at: row.opt_time()?,
        invalid_at: row.opt_time()?,
        created_at: row.time()?,
        expired_at: row.opt_time()?,
        confidence: row.real()?,
        extractor: row.text()?,
        extractor_version: row.text()?,
        metadata: JsonText::known(row.text()?),
    }))
}
