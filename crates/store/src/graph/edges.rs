//! Edges: rows, and how they are found from either end.

use std::collections::BTreeMap;

use agentry_domain::graph::{Edge, EdgeBody, GroupId, Node};
use agentry_domain::{Code, EdgeId, Error, JsonText, NodeId, OrgId, Page, PageRequest, Timestamp};
use serde::Serialize;

use crate::graph::degrees::DegreeChange;
use crate::graph::nodes::node_missing;
use crate::graph::{GRAPH_EDGE_KINDS, GRAPH_EDGES, hex, hex_list, kind_key, rows_json};
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write, Written};
use crate::{Result, Store};

statements! {
    EDGE_INSERT = "insert into graph_edge (org, group_id, from_node, kind, to_node, id, weight, \
        properties, origin, version, created_at, updated_at) \
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    // What is not there yet changes degrees and counters; the rest does not. Of
    // several writers on PostgreSQL only the insert itself knows.
    EDGES_FRESH = sqlite "select count(*) from json_each($1) as j where not exists (select 1 \
        from graph_edge as e where e.org = $2 and e.group_id = $3 \
        and e.from_node = unhex(j.value ->> 'f') and e.kind = j.value ->> 'k' \
        and e.to_node = unhex(j.value ->> 't'))" postgres "";
    EDGES_COUNT = sqlite "insert into counter (org, kind, key, n) \
        select $1, 'graph_edge_kinds', cast($2 || char(0) || (j.value ->> 'k') as blob), count(*) \
        from json_each($3) as j where not exists (select 1 from graph_edge as e where e.org = $1 \
        and e.group_id = $2 and e.from_node = unhex(j.value ->> 'f') \
        and e.kind = j.value ->> 'k' and e.to_node = unhex(j.value ->> 't')) \
        group by j.value ->> 'k' on conflict (org, kind, key) do update set n = n + excluded.n"
        postgres "";
    EDGES_COUNT_ALL = sqlite "insert into counter (org, kind, key, n) \
        select $1, 'graph_edges', cast($2 as blob), count(*) from json_each($3) as j \
        where not exists (select 1 from graph_edge as e where e.org = $1 and e.group_id = $2 \
        and e.from_node = unhex(j.value ->> 'f') and e.kind = j.value ->> 'k' \
        and e.to_node = unhex(j.value ->> 't')) \
        on conflict (org, kind, key) do update set n = n + excluded.n" postgres "";
    EDGES_DEGREES = sqlite "with fresh as materialized (select unhex(j.value ->> 'f') as f, \
        unhex(j.value ->> 't') as t from json_each($1) as j where not exists (select 1 \
        from graph_edge as e where e.org = $2 and e.group_id = $3 \
        and e.from_node = unhex(j.value ->> 'f') and e.kind = j.value ->> 'k' \
        and e.to_node = unhex(j.value ->> 't'))) \
        update graph_degree set in_degree = in_degree + counted.i, \
        out_degree = out_degree + counted.o, degree = degree + counted.i + counted.o, \
        category = case when in_degree + counted.i > 0 \
        then case when out_degree + counted.o > 0 then 3 else 2 end \
        else case when out_degree + counted.o > 0 then 1 else 0 end end \
        from (select node, sum(i) as i, sum(o) as o from (select f as node, 0 as i, 1 as o \
        from fresh as reached union all select t, 1, 0 from fresh as reached) as cut group by node) \
        as counted where graph_degree.org = $2 and graph_degree.group_id = $3 \
        and graph_degree.node = counted.node" postgres "";
    EDGES_PUT = sqlite "insert into graph_edge (org, group_id, from_node, kind, to_node, id, \
        weight, properties, origin, version, created_at, updated_at) select $1, $2, \
        unhex(j.value ->> 'f'), j.value ->> 'k', unhex(j.value ->> 't'), unhex(j.value ->> 'i'), \
        cast(j.value ->> 'w' as real), j.value ->> 'p', $3, 1, $4, $4 from json_each($5) as j \
        where true on conflict (org, group_id, from_node, kind, to_node) do update set \
        weight = excluded.weight, properties = excluded.properties, version = version + 1, \
        updated_at = excluded.updated_at where weight <> excluded.weight \
        or properties <> excluded.properties"
        postgres "with put as (insert into graph_edge as e (org, group_id, from_node, kind, \
        to_node, id, weight, properties, origin, version, created_at, updated_at) \
        select $1::bytea, $2::text, decode(r.f, 'hex'), r.k, decode(r.t, 'hex'), \
        decode(r.i, 'hex'), r.w, r.p, $3::text, 1, $4::bigint, $4::bigint \
        from json_to_recordset($5::text::json) as r (i text, f text, k text, t text, \
        w double precision, p text) on conflict (from_node, org, group_id, kind, to_node) \
        do update set weight = excluded.weight, properties = excluded.properties, \
        version = e.version + 1, updated_at = excluded.updated_at \
        where e.weight <> excluded.weight or e.properties <> excluded.properties \
        returning e.from_node, e.to_node, e.kind, e.xmax = 0 as fresh), \
        degrees as (insert into graph_degree_change (org, group_id, node, in_degree, out_degree) \
        select $1::bytea, $2::text, node, sum(i)::bigint, sum(o)::bigint from (\
        select from_node as node, 0 as i, 1 as o from put where fresh \
        union all select to_node, 1, 0 from put where fresh) as ends group by node), \
        counts as (insert into counter_change (org, kind, key, n) select $1::bytea, \
        'graph_edges', convert_to($2::text, 'UTF8'), count(*) from put where fresh \
        having count(*) > 0 union all select $1::bytea, 'graph_edge_kinds', \
        convert_to($2::text, 'UTF8') || '\\x00'::bytea || convert_to(kind, 'UTF8'), count(*) \
        from put where fresh group by kind) select count(*) from put where fresh";
    EDGE_VERSION = "select version from graph_edge where org = $1 and group_id = $2 and id = $3";
    EDGE_UPDATE = "update graph_edge set weight = $1, properties = $2, version = $3, \
        updated_at = $4 where org = $5 and group_id = $6 and id = $7 and version = $8";
    EDGE_DELETE = "delete from graph_edge where org = $1 and group_id = $2 and id = $3 \
        and version = $4";
    // PostgreSQL deletes here: only so is the guard true until the write is done.
    EDGES_GUARD = sqlite "select 1 where (select count(*) from json_each($1) as j \
        cross join graph_edge as e on e.org = $2 and e.group_id = $3 and e.id = unhex(j.value)) = $4"
        postgres "with gone as (delete from graph_edge where org = $2 and group_id = $3 \
        and id in (select decode(value, 'hex') from json_array_elements_text($1::text::json) \
        as value) returning 1) select 1 where (select count(*) from gone) = $4";
    EDGES_DELETE = sqlite "delete from graph_edge where org = $1 and group_id = $2 \
        and id in (select unhex(value) from json_each($3))" postgres "";
    EDGES_NONE = "select 1 where not exists (select 1 from graph_edge where org = $1 \
        and group_id = $2 and from_node = $3) and not exists (select 1 from graph_edge \
        where org = $1 and group_id = $2 and to_node = $3)";
    EDGE_GET = "select id, from_node, to_node, kind, weight, properties, origin, version, \
        created_at, updated_at from graph_edge where org = $1 and group_id = $2 and id = $3";
    EDGE_LIST_ASC = sqlite "select id, from_node, to_node, kind, weight, properties, origin, \
        version, created_at, updated_at from graph_edge indexed by graph_edge_by_id where org = $1 \
        and group_id = $2 and id > $3 order by id limit $4 offset $5"
        postgres "select id, from_node, to_node, kind, weight, properties, origin, version, \
        created_at, updated_at from graph_edge where org = $1 and group_id = $2 and id > $3 \
        order by id limit $4 offset $5";
    EDGE_LIST_DESC = sqlite "select id, from_node, to_node, kind, weight, properties, origin, \
        version, created_at, updated_at from graph_edge indexed by graph_edge_by_id where org = $1 \
        and group_id = $2 and id < $3 order by id desc limit $4 offset $5"
        postgres "select id, from_node, to_node, kind, weight, properties, origin, version, \
        created_at, updated_at from graph_edge where org = $1 and group_id = $2 and id < $3 \
        order by id desc limit $4 offset $5";
    // From the first node on, of each by kind and the other end; so a limit cuts the
    // same off wherever it is asked.
    EDGES_OUT = sqlite "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, \
        e.origin, e.version, e.created_at, e.updated_at from json_each($1) as j \
        cross join graph_edge as e on e.org = $2 and e.group_id = $3 \
        and e.from_node = unhex(j.value) limit $4"
        postgres "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, e.origin, \
        e.version, e.created_at, e.updated_at \
        from json_array_elements_text($1::text::json) as j (value) cross join lateral (\
        select * from graph_edge where org = $2 and group_id = $3 \
        and from_node = decode(j.value, 'hex') order by kind, to_node limit $4) as e limit $4";
    EDGES_IN = sqlite "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, \
        e.origin, e.version, e.created_at, e.updated_at from json_each($1) as j \
        cross join graph_edge as e indexed by graph_edge_by_to on e.org = $2 and e.group_id = $3 \
        and e.to_node = unhex(j.value) limit $4"
        postgres "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, e.origin, \
        e.version, e.created_at, e.updated_at \
        from json_array_elements_text($1::text::json) as j (value) cross join lateral (\
        select * from graph_edge where org = $2 and group_id = $3 \
        and to_node = decode(j.value, 'hex') order by kind, from_node limit $4) as e limit $4";
    EDGES_OUT_OF_KINDS = sqlite "select e.id, e.from_node, e.to_node, e.kind, e.weight, \
        e.properties, e.origin, e.version, e.created_at, e.updated_at from json_each($1) as j \
        cross join json_each($2) as k cross join graph_edge as e on e.org = $3 \
        and e.group_id = $4 and e.from_node = unhex(j.value) and e.kind = k.value limit $5"
        postgres "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, e.origin, \
        e.version, e.created_at, e.updated_at \
        from json_array_elements_text($1::text::json) as j (value) \
        cross join json_array_elements_text($2::text::json) as k (value) cross join lateral (\
        select * from graph_edge where org = $3 and group_id = $4 \
        and from_node = decode(j.value, 'hex') and kind = k.value order by to_node limit $5) as e \
        limit $5";
    EDGES_IN_OF_KINDS = sqlite "select e.id, e.from_node, e.to_node, e.kind, e.weight, \
        e.properties, e.origin, e.version, e.created_at, e.updated_at from json_each($1) as j \
        cross join json_each($2) as k cross join graph_edge as e indexed by graph_edge_by_to \
        on e.org = $3 and e.group_id = $4 and e.to_node = unhex(j.value) and e.kind = k.value \
        limit $5"
        postgres "select e.id, e.from_node, e.to_node, e.kind, e.weight, e.properties, e.origin, \
        e.version, e.created_at, e.updated_at \
        from json_array_elements_text($1::text::json) as j (value) \
        cross join json_array_elements_text($2::text::json) as k (value) cross join lateral (\
        select * from graph_edge where org = $3 and group_id = $4 \
        and to_node = decode(j.value, 'hex') and kind = k.value order by from_node limit $5) as e \
        limit $5";
}

/// A row of [`EDGES_PUT`].
#[derive(Serialize)]
struct Row<'a> {
    i: String,
    f: String,
    k: &'a str,
    t: String,
    w: f64,
    p: &'a str,
}

/// Which end of edges is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outward {
    /// Where they begin.
    Yes,
    /// Where they end.
    No,
}

/// Where the number of edges that were not there before stands in what a write
/// returns.
#[derive(Clone, Copy, Debug)]
pub struct FreshEdges {
    counted: usize,
    put: usize,
}

impl FreshEdges {
    /// How many there were.
    pub fn of(self, written: &Written) -> u64 {
        let number = |place: usize| match written.rows(place).first().map(Vec::as_slice) {
            Some([Value::Int(n)]) => Some(n.unsigned_abs()),
            _ => None,
        };
        number(self.counted).or_else(|| number(self.put)).unwrap_or(0)
    }
}

/// The error for an edge that is not in a group.
pub fn edge_missing(id: EdgeId) -> Error {
    Error::not_found("edge", id)
}

/// The error for an edge that has another version than the one named.
pub fn edge_changed(id: EdgeId, version: i64) -> Error {
    let detail = format!("edge {id} has changed; its version is now {version}");
    Error::new(Code::PreconditionFailed, detail)
}

/// How degrees change when edges come, or with -1 go.
fn degree_changes<'a>(ends: impl Iterator<Item = &'a EdgeBody>, times: i64) -> Vec<DegreeChange> {
    let mut changes: BTreeMap<NodeId, DegreeChange> = BTreeMap::new();
    let begin = |node| DegreeChange { node, incoming: 0, outgoing: 0 };
    for EdgeBody { from, to, .. } in ends {
        changes.entry(*from).or_insert_with(|| begin(*from)).outgoing += times;
        changes.entry(*to).or_insert_with(|| begin(*to)).incoming += times;
    }
    changes.into_values().collect()
}

impl Write {
    /// Stores a new edge. One of the same kind between the same nodes is
    /// `already_exists`; an end that the group does not have is `not_found`.
    pub fn graph_edge_insert(&mut self, edge: &Edge) {
        let (group, body) = (&edge.group_id, &edge.body);
        for end in [body.from, body.to] {
            self.graph_nodes_present(group, &[end], move || node_missing(end));
        }
        let taken = format!(
            "there is an edge of the kind {:?} from {} to {} already",
            body.kind, body.from, body.to
        );
        self.add(
            &EDGE_INSERT,
            values![
                self.org,
                group.as_str().to_owned(),
                body.from,
                &body.kind,
                body.to,
                edge.id,
                body.weight,
                body.properties.as_str().to_owned(),
                &edge.origin,
                edge.version,
                edge.created_at,
                edge.updated_at,
            ],
        )
        .taken_means(move || Error::new(Code::AlreadyExists, taken.clone()));
        self.degrees_change(group, &degree_changes(std::iter::once(body), 1));
        self.count_edges(group, std::iter::once(body), 1);
    }

    fn count_edges<'a>(
        &mut self,
        group: &GroupId,
        edges: impl Iterator<Item = &'a EdgeBody>,
        times: i64,
    ) {
        for edge in edges {
            self.count(GRAPH_EDGES, group.as_str().as_bytes(), times);
            self.count(GRAPH_EDGE_KINDS, &kind_key(group, &edge.kind), times);
        }
    }

    /// Stores edges between nodes that the group has, which the caller guards with
    /// [`Write::graph_nodes_present`]. An edge that is there, of the same kind between
    /// the same nodes, gets this weight and these properties, and keeps its id. No two
    /// of `edges` are of the same kind between the same nodes. They are of one origin,
    /// the first one's, and are made at one time.
    pub fn graph_edges_put(&mut self, group: &GroupId, edges: &[Edge]) -> FreshEdges {
        let mut sorted: Vec<&Edge> = edges.iter().collect();
        // In one order everywhere, so that two writers do not wait for each other.
        sorted.sort_unstable_by(|a, b| {
            let key = |edge: &Edge| (edge.body.from, edge.body.to);
            key(a).cmp(&key(b)).then_with(|| a.body.kind.cmp(&b.body.kind))
        });
        let rows: Vec<Row<'_>> = sorted
            .iter()
            .map(|edge| Row {
                i: hex(edge.id.to_bytes()),
                f: hex(edge.body.from.to_bytes()),
                k: &edge.body.kind,
                t: hex(edge.body.to.to_bytes()),
                w: edge.body.weight,
                p: edge.body.properties.as_str(),
            })
            .collect();
        let (rows, name) = (rows_json(&rows), group.as_str().to_owned());
        let mut ends: Vec<[u8; 16]> = edges
            .iter()
            .flat_map(|edge| [edge.body.from, edge.body.to])
            .map(NodeId::to_bytes)
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let ends = hex_list(ends);
        let (origin, at) =
            edges.first().map_or((String::new(), Timestamp::from_micros(0)), |edge| {
                (edge.origin.clone(), edge.created_at)
            });
        let org = self.org;
        let counted = self.next();
        self.add(&EDGES_FRESH, values![rows.clone(), org, name.clone()]).returning();
        self.add(&EDGES_COUNT, values![org, name.clone(), rows.clone()]);
        self.add(&EDGES_COUNT_ALL, values![org, name.clone(), rows.clone()]);
        self.degree_categories(-1, &ends, group);
        self.add(&EDGES_DEGREES, values![rows.clone(), org, name.clone()]);
        let put = self.next();
        self.add(&EDGES_PUT, values![org, name, origin, at, rows]).returning();
        self.degree_categories(1, &ends, group);
        FreshEdges { counted, put }
    }

    /// Stores the next version of an edge: its weight and its properties.
    pub fn graph_edge_update(&mut self, edge: &Edge) {
        let bound = values![
            edge.body.weight,
            edge.body.properties.as_str().to_owned(),
            edge.version,
            edge.updated_at,
            self.org,
            edge.group_id.as_str().to_owned(),
            edge.id,
            edge.version - 1,
        ];
        let probe = version_probe(self.org, edge);
        self.contend(edge.id.to_bytes());
        self.add(&EDGE_UPDATE, bound).expect_one(probe);
    }

    /// Deletes an edge of this version.
    pub fn graph_edge_delete(&mut self, edge: &Edge) {
        let group = edge.group_id.as_str().to_owned();
        let probe = version_probe(self.org, edge);
        self.contend(edge.id.to_bytes());
        self.add(&EDGE_DELETE, values![self.org, group, edge.id, edge.version]).expect_one(probe);
        let body = || std::iter::once(&edge.body);
        self.degrees_change(&edge.group_id, &degree_changes(body(), -1));
        self.count_edges(&edge.group_id, body(), -1);
    }

    /// Deletes edges, all of them or the write is `precondition_failed`.
    pub fn graph_edges_delete(&mut self, group: &GroupId, edges: &[Edge]) {
        if edges.is_empty() {
            return;
        }
        let (org, name) = (self.org, group.as_str().to_owned());
        let ids = hex_list(edges.iter().map(|edge| edge.id.to_bytes()));
        let count = i64::try_from(edges.len()).unwrap_or(i64::MAX);
        self.add(&EDGES_GUARD, values![ids.clone(), org, name.clone(), count]).expect_one(
            Probe::always(|| Error::new(Code::PreconditionFailed, "edges have changed")),
        );
        self.add(&EDGES_DELETE, values![org, name, ids]);
        let bodies = || edges.iter().map(|edge| &edge.body);
        self.degrees_change(group, &degree_changes(bodies(), -1));
        self.count_edges(group, bodies(), -1);
    }

    /// Guard: no edge begins or ends at a node; otherwise `precondition_failed`.
    pub fn graph_node_has_no_edges(&mut self, node: &Node) {
        let bound = values![self.org, node.group_id.as_str().to_owned(), node.id];
        let verdict = || Error::new(Code::PreconditionFailed, "the node has other edges now");
        self.add(&EDGES_NONE, bound).expect_one(Probe::always(verdict));
    }
}

fn version_probe(org: OrgId, edge: &Edge) -> Probe {
    let id = edge.id;
    let bound = values![org, edge.group_id.as_str().to_owned(), id];
    Probe::read(&EDGE_VERSION, bound, move |version| match version {
        None => edge_missing(id),
        Some(version) => edge_changed(id, version),
    })
}

/// An edge as its row has it, without the group, which every statement knows.
struct EdgeRow {
    id: EdgeId,
    body: EdgeBody,
    origin: String,
    version: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl EdgeRow {
    fn of(self, group: &GroupId) -> Edge {
        let Self { id, body, origin, version, created_at, updated_at } = self;
        Edge { id, group_id: group.clone(), body, origin, version, created_at, updated_at }
    }
}

fn edge(row: &mut Columns<'_>) -> Result<EdgeRow> {
    Ok(EdgeRow {
        id: EdgeId::from_bytes(row.id()?),
        body: EdgeBody {
            from: NodeId::from_bytes(row.id()?),
            to: NodeId::from_bytes(row.id()?),
            kind: row.text()?,
            weight: row.real()?,
            properties: JsonText::known(row.text()?),
        },
        origin: row.text()?,
        version: row.int()?,
        created_at: row.time()?,
        updated_at: row.time()?,
    })
}

impl Store {
    /// The edge of a group with this id.
    pub async fn graph_edge_get(
        &self,
        org: OrgId,
        group: &GroupId,
        id: EdgeId,
    ) -> Result<Option<Edge>> {
        let bound = values![org, group.as_str().to_owned(), id];
        Ok(self.point(&EDGE_GET, bound, edge).await?.map(|row| row.of(group)))
    }

    /// A page of a group's edges.
    pub async fn graph_edge_list(
        &self,
        org: OrgId,
        group: &GroupId,
        page: &PageRequest,
    ) -> Result<Page<Edge>> {
        let (after, limit, offset) = cursor(page);
        let name = group.as_str().to_owned();
        let sql = list_page(page, &EDGE_LIST_ASC, &EDGE_LIST_DESC);
        let bound = values![org, name.clone(), after, limit, offset];
        let rows = self.list(page, sql, bound, edge).await?;
        let rows = rows.into_iter().map(|row| row.of(group)).collect();
        let total = self.counter(org, GRAPH_EDGES, name.as_bytes()).await?;
        Ok(Page::from_rows(rows, page, total, |edge: &Edge| edge.id.to_bytes()))
    }

    /// The edges that begin, or end, at these nodes, of these kinds or of all: those
    /// of the first node first, at most `limit`.
    pub async fn graph_edges_at(
        &self,
        org: OrgId,
        group: &GroupId,
        nodes: &[NodeId],
        (outward, kinds): (Outward, Option<&[String]>),
        limit: u32,
    ) -> Result<Vec<Edge>> {
        if nodes.is_empty() || limit == 0 || kinds.is_some_and(<[String]>::is_empty) {
            return Ok(Vec::new());
        }
        let (ids, name) =
            (hex_list(nodes.iter().map(|id| id.to_bytes())), group.as_str().to_owned());
        let (sql, bound) = match (outward, kinds) {
            (Outward::Yes, None) => (&EDGES_OUT, values![ids, org, name, limit]),
            (Outward::No, None) => (&EDGES_IN, values![ids, org, name, limit]),
            (Outward::Yes, Some(kinds)) => {
                (&EDGES_OUT_OF_KINDS, values![ids, rows_json(kinds), org, name, limit])
            }
            (Outward::No, Some(kinds)) => {
                (&EDGES_IN_OF_KINDS, values![ids, rows_json(kinds), org, name, limit])
            }
        };
        let few = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let rows = self.graph_page((0, limit.max(few)), sql, bound, edge).await?;
        Ok(rows.into_iter().map(|row| row.of(group)).collect())
    }
}
