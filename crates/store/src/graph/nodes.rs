//! Nodes: rows, the names that they are found by, and how they are read, each
//! with its degrees.

use agentry_domain::graph::{GroupId, NAMES_READ_MAX, NamePart, Node, NodeBody};
use agentry_domain::{Code, Error, JsonText, NodeId, OrgId, Page, PageRequest, Timestamp};
use serde::Serialize;

use crate::graph::{GRAPH_NODE_KINDS, GRAPH_NODES, hex, hex_list, kind_key, rows_json};
use crate::lists::{INLINE_OFFSET_MAX, INLINE_ROWS_MAX, cursor, list_page};
use crate::sql::{Sql, statements};
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Map, Result, Store, StoreError};

statements! {
    NODES_INSERT = sqlite "insert into graph_node (org, group_id, id, key, kind, name, aliases, \
        language, properties, origin, version, created_at, updated_at) select $1, $2, \
        unhex(value ->> 'i'), value ->> 'y', value ->> 'k', value ->> 'a', value ->> 'l', \
        value ->> 'g', value ->> 'p', value ->> 'o', value ->> 'v', value ->> 'c', value ->> 'u' \
        from json_each($3)"
        postgres "insert into graph_node (org, group_id, id, key, kind, name, aliases, language, \
        properties, origin, version, created_at, updated_at) select $1::bytea, $2::text, \
        decode(r.i, 'hex'), r.y, r.k, r.a, r.l, r.g, r.p, r.o, r.v, r.c, r.u \
        from json_to_recordset($3::text::json) as r (i text, y text, k text, a text, l text, \
        g text, p text, o text, v bigint, c bigint, u bigint)";
    // The version is the one before. PostgreSQL changes the rows here: only so is
    // the guard true until the write is done.
    NODES_GUARD = sqlite "select 1 where (select count(*) from json_each($1) as j \
        cross join graph_node as n on n.org = $2 and n.group_id = $3 \
        and n.id = unhex(j.value ->> 'i') and n.version = (j.value ->> 'v') - 1) = $4"
        postgres "with done as (update graph_node as n set key = r.y, kind = r.k, name = r.a, \
        aliases = r.l, language = r.g, properties = r.p, version = r.v, updated_at = r.u \
        from json_to_recordset($1::text::json) as r (i text, y text, k text, a text, l text, \
        g text, p text, v bigint, u bigint) where n.org = $2 and n.group_id = $3 \
        and n.id = decode(r.i, 'hex') and n.version = r.v - 1 returning 1) \
        select 1 where (select count(*) from done) = $4";
    // Materialised, SQLite goes through these few rows and not through the group.
    NODES_UPDATE = sqlite "with counted as materialized (select unhex(value ->> 'i') as i, \
        value ->> 'y' as y, value ->> 'k' as k, value ->> 'a' as a, value ->> 'l' as l, \
        value ->> 'g' as g, value ->> 'p' as p, value ->> 'v' as v, value ->> 'u' as u \
        from json_each($1)) update graph_node set key = counted.y, kind = counted.k, \
        name = counted.a, aliases = counted.l, language = counted.g, properties = counted.p, \
        version = counted.v, updated_at = counted.u from counted where graph_node.org = $2 \
        and graph_node.group_id = $3 and graph_node.id = counted.i" postgres "";
    NODE_VERSION = "select version from graph_node where org = $1 and group_id = $2 and id = $3";
    // The lock is a statement of its own so that the next one sees every edge that
    // was put before it.
    NODE_LOCK = sqlite "select version from graph_node where org = $1 and group_id = $2 and id = $3 \
        and version = $4"
        postgres "select version from graph_node where org = $1 and group_id = $2 and id = $3 \
        and version = $4 for update";
    // Of another version it stays, so that the lock's probe finds it.
    NODE_DELETE = "delete from graph_node where org = $1 and group_id = $2 and id = $3 \
        and version = $4";
    NODE_MERGE_DELETE = "delete from graph_merge where org = $1 and group_id = $2 and merged = $3";
    NODE_MERGED_DELETE = "delete from graph_merge where org = $1 and group_id = $2 \
        and into_node = $3";
    // The lock keeps the nodes until the write is done.
    NODES_PRESENT = sqlite "select 1 where (select count(*) from json_each($1) as j \
        cross join graph_node as n on n.org = $2 and n.group_id = $3 and n.id = unhex(j.value)) = $4"
        postgres "select 1 from (select count(*) as n from (select 1 from graph_node \
        where org = $2 and group_id = $3 and id in (select decode(value, 'hex') \
        from json_array_elements_text($1::text::json) as value) order by id for key share) \
        as held) as counted where n = $4";
    NAMES_INSERT = sqlite "insert into graph_node_name (org, group_id, name, node, part, kind) \
        select $1, $2, value ->> 'a', unhex(value ->> 'i'), value ->> 'p', value ->> 'k' \
        from json_each($3)"
        postgres "insert into graph_node_name (org, group_id, name, node, part, kind) \
        select $1::bytea, $2::text, r.a, decode(r.i, 'hex'), r.p, r.k \
        from json_to_recordset($3::text::json) as r (a text, i text, p bigint, k text)";
    NAME_DELETE = "delete from graph_node_name where org = $1 and group_id = $2 and name = $3 \
        and node = $4";
    NODE_GET = "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, n.origin, \
        n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree from graph_node as n \
        join graph_degree as d on d.org = n.org and d.group_id = n.group_id and d.node = n.id \
        where n.org = $1 and n.group_id = $2 and n.id = $3";
    NODE_LIST_ASC = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from graph_node as n cross join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id where n.org = $1 and n.group_id = $2 \
        and n.id > $3 order by n.id limit $4 offset $5"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from (select * from graph_node where org = $1 and group_id = $2 and id > $3 order by id \
        limit $4 offset $5) as n join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id order by n.id";
    NODE_LIST_DESC = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from graph_node as n cross join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id where n.org = $1 and n.group_id = $2 \
        and n.id < $3 order by n.id desc limit $4 offset $5"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from (select * from graph_node where org = $1 and group_id = $2 and id < $3 \
        order by id desc limit $4 offset $5) as n join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id order by n.id desc";
    NODE_KIND_ASC = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from graph_node as n indexed by graph_node_by_kind cross join graph_degree as d \
        on d.org = n.org and d.group_id = n.group_id and d.node = n.id where n.org = $1 \
        and n.group_id = $2 and n.kind = $3 and n.id > $4 order by n.id limit $5 offset $6"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from (select * from graph_node where org = $1 and group_id = $2 and kind = $3 and id > $4 \
        order by id limit $5 offset $6) as n join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id order by n.id";
    NODE_KIND_DESC = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from graph_node as n indexed by graph_node_by_kind cross join graph_degree as d \
        on d.org = n.org and d.group_id = n.group_id and d.node = n.id where n.org = $1 \
        and n.group_id = $2 and n.kind = $3 and n.id < $4 order by n.id desc limit $5 offset $6"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from (select * from graph_node where org = $1 and group_id = $2 and kind = $3 and id < $4 \
        order by id desc limit $5 offset $6) as n join graph_degree as d on d.org = n.org \
        and d.group_id = n.group_id and d.node = n.id order by n.id desc";
    NODES_BY_CATEGORY = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, cut.in_degree, \
        cut.out_degree from (select node, in_degree, out_degree from graph_degree \
        indexed by graph_degree_by_category where org = $1 and group_id = $2 and category = $3 \
        order by node limit $4 offset $5) as cut cross join graph_node as n on n.org = $1 \
        and n.group_id = $2 and n.id = cut.node order by n.id"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, cut.in_degree, cut.out_degree \
        from (select node, in_degree, out_degree from graph_degree where org = $1 \
        and group_id = $2 and category = $3 order by node limit $4 offset $5) as cut \
        join graph_node as n on n.org = $1 and n.group_id = $2 and n.id = cut.node order by n.id";
    NODES_BY_DEGREE = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, cut.in_degree, \
        cut.out_degree from (select node, degree, in_degree, out_degree from graph_degree \
        indexed by graph_degree_by_degree where org = $1 and group_id = $2 and degree > 0 \
        order by degree desc, node limit $3 offset $4) as cut cross join graph_node as n \
        on n.org = $1 and n.group_id = $2 and n.id = cut.node order by cut.degree desc, n.id"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, cut.in_degree, cut.out_degree \
        from (select node, degree, in_degree, out_degree from graph_degree where org = $1 \
        and group_id = $2 and degree > 0 order by degree desc, node limit $3 offset $4) as cut \
        join graph_node as n on n.org = $1 and n.group_id = $2 and n.id = cut.node \
        order by cut.degree desc, n.id";
    NODES_GET = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from json_each($1) as j cross join graph_node as n on n.org = $2 and n.group_id = $3 \
        and n.id = unhex(j.value) cross join graph_degree as d on d.org = $2 and d.group_id = $3 \
        and d.node = n.id"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, d.in_degree, d.out_degree \
        from json_array_elements_text($1::text::json) as j (value) join graph_node as n \
        on n.org = $2 and n.group_id = $3 and n.id = decode(j.value, 'hex') \
        join graph_degree as d on d.org = $2 and d.group_id = $3 and d.node = n.id";
    NODES_BY_KEY = sqlite "select n.id, n.key, n.kind, n.name, n.aliases, n.language, \
        n.properties, n.origin, n.version, n.created_at, n.updated_at, 0, 0 \
        from json_each($1) as j cross join graph_node as n on n.org = $2 and n.group_id = $3 \
        and n.key = j.value"
        postgres "select n.id, n.key, n.kind, n.name, n.aliases, n.language, n.properties, \
        n.origin, n.version, n.created_at, n.updated_at, 0::bigint, 0::bigint \
        from json_array_elements_text($1::text::json) as j (value) join graph_node as n \
        on n.org = $2 and n.group_id = $3 and n.key = j.value";
    NAMES_FIND = sqlite "select name, node, part, kind from graph_node_name \
        where org = $1 and group_id = $2 and name >= $3 and name < $4 order by name, node limit $5"
        postgres "select name, node, part, kind from graph_node_name \
        where org = $1 and group_id = $2 and name >= $3 and name < $4 order by name, node limit $5";
}

/// A row of [`NODES_INSERT`] and [`NODES_UPDATE`].
#[derive(Serialize)]
struct Row<'a> {
    i: String,
    y: Option<&'a str>,
    k: &'a str,
    a: &'a str,
    l: String,
    g: Option<&'a str>,
    p: &'a str,
    o: &'a str,
    v: i64,
    c: i64,
    u: i64,
}

impl<'a> Row<'a> {
    fn of(node: &'a Node) -> Self {
        let body = &node.body;
        Self {
            i: hex(node.id.to_bytes()),
            y: body.key.as_deref(),
            k: &body.kind,
            a: &body.name,
            l: rows_json(&body.aliases),
            g: body.language.as_deref(),
            p: body.properties.as_str(),
            o: &node.origin,
            v: node.version,
            c: node.created_at.micros(),
            u: node.updated_at.micros(),
        }
    }
}

/// A row of [`NAMES_INSERT`].
#[derive(Serialize, PartialEq)]
struct NameRow {
    a: String,
    i: String,
    p: i64,
    k: String,
}

fn names(id: NodeId, body: &NodeBody) -> impl Iterator<Item = NameRow> {
    let (i, k) = (hex(id.to_bytes()), body.kind.clone());
    let row = move |(a, part): (String, NamePart)| NameRow {
        a,
        i: i.clone(),
        p: part as i64,
        k: k.clone(),
    };
    body.names().into_iter().map(row)
}

/// A name that begins as a search asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMatch {
    /// The name, or the end of one, in normal form.
    pub name: String,
    /// Whose it is.
    pub node: NodeId,
    /// Which of its names.
    pub part: NamePart,
    /// The node's kind.
    pub kind: String,
}

/// The error for a node that is not in a group.
pub fn node_missing(id: NodeId) -> Error {
    Error::not_found("node", id)
}

/// The error for a node that has another version than the one named.
pub fn node_changed(id: NodeId, version: i64) -> Error {
    let detail = format!("node {id} has changed; its version is now {version}");
    Error::new(Code::PreconditionFailed, detail)
}

fn key_taken() -> Error {
    Error::new(Code::AlreadyExists, "a node of this group has this key already")
}

/// The guard of several nodes failed: something came in between.
fn nodes_changed() -> Error {
    Error::new(Code::PreconditionFailed, "nodes of the group have changed")
}

impl Write {
    /// Stores new nodes. A key that another node of the group has is
    /// `already_exists`.
    pub fn graph_nodes_insert(&mut self, group: &GroupId, nodes: &[Node]) {
        if nodes.is_empty() {
            return;
        }
        let name = group.as_str().to_owned();
        let rows: Vec<Row<'_>> = nodes.iter().map(Row::of).collect();
        self.add(&NODES_INSERT, values![self.org, name.clone(), rows_json(&rows)])
            .taken_means(key_taken);
        self.degrees_insert(group, nodes);
        let found_by: Vec<NameRow> =
            nodes.iter().flat_map(|node| names(node.id, &node.body)).collect();
        self.add(&NAMES_INSERT, values![self.org, name.clone(), rows_json(&found_by)]);
        let n = i64::try_from(nodes.len()).unwrap_or(i64::MAX);
        self.count(GRAPH_NODES, name.as_bytes(), n);
        for node in nodes {
            self.count(GRAPH_NODE_KINDS, &kind_key(group, &node.body.kind), 1);
        }
    }

    /// Stores the next version of nodes, each as it was and as it will be, if
    /// nothing came between; otherwise, for several, `precondition_failed`.
    pub fn graph_nodes_update(&mut self, group: &GroupId, changes: &[(&Node, &Node)]) {
        if changes.is_empty() {
            return;
        }
        let org = self.org;
        let name = group.as_str().to_owned();
        let rows: Vec<Row<'_>> = changes.iter().map(|(_, node)| Row::of(node)).collect();
        let rows = rows_json(&rows);
        let count = i64::try_from(changes.len()).unwrap_or(i64::MAX);
        let probe = match changes {
            [(was, _)] => {
                let id = was.id;
                version_probe(org, group, id)
            }
            _ => Probe::always(nodes_changed),
        };
        self.add(&NODES_GUARD, values![rows.clone(), org, name.clone(), count])
            .taken_means(key_taken)
            .expect_one(probe);
        self.add(&NODES_UPDATE, values![rows, org, name.clone()]).taken_means(key_taken);
        let mut new: Vec<NameRow> = Vec::new();
        for (was, node) in changes {
            let before: Vec<NameRow> = names(was.id, &was.body).collect();
            let after: Vec<NameRow> = names(node.id, &node.body).collect();
            if before != after {
                self.graph_names_delete(was);
                new.extend(after);
            }
            if was.body.kind != node.body.kind {
                self.count(GRAPH_NODE_KINDS, &kind_key(group, &was.body.kind), -1);
                self.count(GRAPH_NODE_KINDS, &kind_key(group, &node.body.kind), 1);
            }
        }
        if !new.is_empty() {
            self.add(&NAMES_INSERT, values![org, name, rows_json(&new)]);
        }
    }

    fn graph_names_delete(&mut self, node: &Node) {
        for (name, _) in node.body.names() {
            let group = node.group_id.as_str().to_owned();
            self.add(&NAME_DELETE, values![self.org, group, name, node.id]);
        }
    }

    /// Guard: the node has this version, and stays as it is until the write is done.
    pub fn graph_node_lock(&mut self, node: &Node) {
        let bound = values![self.org, node.group_id.as_str().to_owned(), node.id, node.version];
        let probe = version_probe(self.org, &node.group_id, node.id);
        self.contend(node.id.to_bytes());
        self.add(&NODE_LOCK, bound).expect_one(probe);
    }

    /// Deletes a node that was locked and has no edges left.
    pub fn graph_node_delete(&mut self, node: &Node) {
        let group = &node.group_id;
        let (org, name) = (self.org, group.as_str().to_owned());
        self.graph_names_delete(node);
        self.degree_delete(group, node.id);
        for sql in [&NODE_MERGE_DELETE, &NODE_MERGED_DELETE] {
            self.add(sql, values![org, name.clone(), node.id]);
        }
        self.add(&NODE_DELETE, values![org, name.clone(), node.id, node.version]);
        self.count(GRAPH_NODES, name.as_bytes(), -1);
        self.count(GRAPH_NODE_KINDS, &kind_key(group, &node.body.kind), -1);
    }

    /// Guard: the group has all of these nodes, and keeps them until the write is
    /// done. Otherwise the error is what `missing` says.
    pub fn graph_nodes_present(
        &mut self,
        group: &GroupId,
        nodes: &[NodeId],
        missing: impl Fn() -> Error + Send + Sync + 'static,
    ) {
        let mut ids: Vec<[u8; 16]> = nodes.iter().map(|id| id.to_bytes()).collect();
        ids.sort_unstable();
        ids.dedup();
        let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let bound = values![hex_list(ids), self.org, group.as_str().to_owned(), count];
        self.add(&NODES_PRESENT, bound).expect_one(Probe::always(missing));
    }
}

fn version_probe(org: OrgId, group: &GroupId, id: NodeId) -> Probe {
    let bound = values![org, group.as_str().to_owned(), id];
    Probe::read(&NODE_VERSION, bound, move |version| match version {
        None => node_missing(id),
        Some(version) => node_changed(id, version),
    })
}

/// A node as its row has it, without the group, which every statement knows.
pub(crate) struct NodeRow {
    id: NodeId,
    body: NodeBody,
    origin: String,
    version: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    in_degree: i64,
    out_degree: i64,
}

impl NodeRow {
    pub(crate) fn of(self, group: &GroupId) -> Node {
        // Folded late, a degree may be below nothing for a moment.
        let degree = |n: i64| u64::try_from(n).unwrap_or(0);
        Node {
            id: self.id,
            group_id: group.clone(),
            body: self.body,
            origin: self.origin,
            in_degree: degree(self.in_degree),
            out_degree: degree(self.out_degree),
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

pub(crate) fn node(row: &mut Columns<'_>) -> Result<NodeRow> {
    Ok(NodeRow {
        id: NodeId::from_bytes(row.id()?),
        body: NodeBody {
            key: row.opt_text()?,
            kind: row.text()?,
            name: row.text()?,
            aliases: serde_json::from_str(&row.text()?)
                .map_err(|_| StoreError::unreadable("a node's other names"))?,
            language: row.opt_text()?,
            properties: JsonText::known(row.text()?),
        },
        origin: row.text()?,
        version: row.int()?,
        created_at: row.time()?,
        updated_at: row.time()?,
        in_degree: row.int()?,
        out_degree: row.int()?,
    })
}

fn name_match(row: &mut Columns<'_>) -> Result<NameMatch> {
    Ok(NameMatch {
        name: row.text()?,
        node: NodeId::from_bytes(row.id()?),
        part: match row.int()? {
            0 => NamePart::Name,
            1 => NamePart::Alias,
            _ => NamePart::End,
        },
        kind: row.text()?,
    })
}

/// What is greater than every text that begins with another one's bytes.
const AFTER_EVERY_CHARACTER: char = char::MAX;

impl Store {
    /// A page by offset: where the caller is when it is short.
    pub(crate) async fn graph_page<T: Send + 'static>(
        &self,
        (offset, limit): (u32, u32),
        sql: &'static Sql,
        bound: Vec<Value>,
        map: Map<T>,
    ) -> Result<Vec<T>> {
        if limit <= INLINE_ROWS_MAX && offset <= INLINE_OFFSET_MAX {
            self.rows(sql, bound, map).await
        } else {
            self.scan(sql, bound, map).await
        }
    }

    /// The node of a group with this id.
    pub async fn graph_node_get(
        &self,
        org: OrgId,
        group: &GroupId,
        id: NodeId,
    ) -> Result<Option<Node>> {
        let bound = values![org, group.as_str().to_owned(), id];
        Ok(self.point(&NODE_GET, bound, node).await?.map(|row| row.of(group)))
    }

    /// The nodes of a group with these ids, in their order, without those that are
    /// not there.
    pub async fn graph_nodes_get(
        &self,
        org: OrgId,
        group: &GroupId,
        ids: &[NodeId],
    ) -> Result<Vec<Node>> {
        let list = hex_list(ids.iter().map(|id| id.to_bytes()));
        let bound = values![list, org, group.as_str().to_owned()];
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let rows = self.graph_page((0, count), &NODES_GET, bound, node).await?;
        let mut found: std::collections::HashMap<NodeId, Node> =
            rows.into_iter().map(|row| (row.id, row.of(group))).collect();
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// The nodes of a group with these keys, whose degrees are not read.
    pub async fn graph_nodes_by_key(
        &self,
        org: OrgId,
        group: &GroupId,
        keys: &[&str],
    ) -> Result<Vec<Node>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let bound = values![rows_json(keys), org, group.as_str().to_owned()];
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let rows = self.graph_page((0, count), &NODES_BY_KEY, bound, node).await?;
        Ok(rows.into_iter().map(|row| row.of(group)).collect())
    }

    /// A page of a group's nodes, or of those of one kind.
    pub async fn graph_node_list(
        &self,
        org: OrgId,
        group: &GroupId,
        kind: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Node>> {
        let (after, limit, offset) = cursor(page);
        let name = group.as_str().to_owned();
        let (sql, bound, total) = match kind {
            None => (
                list_page(page, &NODE_LIST_ASC, &NODE_LIST_DESC),
                values![org, name.clone(), after, limit, offset],
                self.counter(org, GRAPH_NODES, name.as_bytes()).await?,
            ),
            Some(kind) => (
                list_page(page, &NODE_KIND_ASC, &NODE_KIND_DESC),
                values![org, name, kind.to_owned(), after, limit, offset],
                self.counter(org, GRAPH_NODE_KINDS, &kind_key(group, kind)).await?,
            ),
        };
        let rows = self.list(page, sql, bound, node).await?;
        let rows = rows.into_iter().map(|row| row.of(group)).collect();
        Ok(Page::from_rows(rows, page, total, |node: &Node| node.id.to_bytes()))
    }

    /// Names of a group, in normal form, that begin like this one, in order, at most
    /// [`NAMES_READ_MAX`].
    pub async fn graph_names_find(
        &self,
        org: OrgId,
        group: &GroupId,
        beginning: &str,
    ) -> Result<Vec<NameMatch>> {
        let end = format!("{beginning}{AFTER_EVERY_CHARACTER}");
        self.names_between(org, group, (beginning.to_owned(), end), NAMES_READ_MAX).await
    }

    /// Exactly this name, in normal form, at most `limit` times.
    pub async fn graph_names_are(
        &self,
        org: OrgId,
        group: &GroupId,
        name: &str,
        limit: u32,
    ) -> Result<Vec<NameMatch>> {
        // Nothing is between a text and itself with U+0001 after it: names in normal
        // form have letters, digits and blanks.
        let end = format!("{name}\u{1}");
        self.names_between(org, group, (name.to_owned(), end), limit).await
    }

    async fn names_between(
        &self,
        org: OrgId,
        group: &GroupId,
        (from, end): (String, String),
        limit: u32,
    ) -> Result<Vec<NameMatch>> {
        let bound = values![org, group.as_str().to_owned(), from, end, limit];
        self.graph_page((0, limit), &NAMES_FIND, bound, name_match).await
    }
}
