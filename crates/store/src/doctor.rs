//! Looks whether what is stored agrees with itself: the file, the counters and
//! a recount, rows and what they belong to, the log. It changes nothing, looks
//! at one moment, and may be used beside a server that serves the same data.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};

use crate::postgres::{self, Target};
use crate::sqlite::{self, FILE_NAME};
use crate::{Options, Result, StoreError, sql};

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What must hold.
    pub name: String,
    /// How often it does not.
    pub faults: u64,
    /// What exactly, when the storage says it.
    pub details: Vec<String>,
}

impl Check {
    fn counted(name: impl Into<String>, faults: i64) -> Self {
        let faults = faults.unsigned_abs();
        Self { name: name.into(), faults, details: Vec::new() }
    }
}

/// What must hold, and a statement that counts how often it does not. `c` are the
/// counters, `e` the entries of the log, wherever an engine keeps them, and `d` and `g`
/// what [`ON_SQLITE`] says.
struct Rule {
    name: &'static str,
    sql: &'static str,
    deep: bool,
}

const fn rule(name: &'static str, sql: &'static str) -> Rule {
    Rule { name, sql, deep: false }
}

const fn deep(name: &'static str, sql: &'static str) -> Rule {
    Rule { name, sql, deep: true }
}

const RULES: &[Rule] = &[
    // A large session goes before what is in it, while the purge goes on.
    rule(
        "every run has its session",
        "select count(*) from run r where not exists \
         (select 1 from session s where s.org = r.org and s.id = r.session) and not exists \
         (select 1 from job j where j.org = r.org and j.kind = 'purge')",
    ),
    rule(
        "every message has its session",
        "select count(*) from message m where not exists \
         (select 1 from session s where s.org = m.org and s.id = m.session) and not exists \
         (select 1 from job j where j.org = m.org and j.kind = 'purge')",
    ),
    rule(
        "every message of a run has its run",
        "select count(*) from message m where m.run is not null and not exists \
         (select 1 from run r where r.org = m.org and r.id = m.run)",
    ),
    rule(
        "a run has ended, or has a job",
        "select count(*) from run r where (select count(*) from job j where j.org = r.org \
         and j.id = r.id and j.lane = r.session) \
         <> case when r.finished_at is null then 1 else 0 end",
    ),
    rule(
        "text of runs is kept apart only until they end",
        "select count(*) from run_chunk c where not exists (select 1 from run r \
         where r.org = c.org and r.id = c.run and r.finished_at is null)",
    ),
    rule(
        "every lane has its jobs, and counts them",
        "select count(*) from lane l where l.depth = 0 or l.depth <> \
         (select count(*) from job j where j.org = l.org and j.lane = l.id)",
    ),
    rule(
        "every job has its lane",
        "select count(*) from job j where not exists \
         (select 1 from lane l where l.org = j.org and l.id = j.lane)",
    ),
    rule(
        "the first job of a lane alone is its head",
        "select count(*) from job j where j.head <> case when exists (select 1 from job i \
         where i.org = j.org and i.lane = j.lane and i.position < j.position) then 0 else 1 end",
    ),
    rule(
        "every other name of a user has its user",
        "select count(*) from user_alias a where not exists \
         (select 1 from app_user u where u.org = a.org and u.id = a.holder)",
    ),
    rule(
        "every key has a secret, and every secret its key",
        "select (select count(*) from api_key k where not exists (select 1 from key_secret s \
         where s.org = k.org and s.id = k.id and s.role = k.role)) + (select count(*) \
         from key_secret s where not exists (select 1 from api_key k \
         where k.org = s.org and k.id = s.id))",
    ),
    rule(
        "every webhook has its place in the log, and every place its webhook",
        "select (select count(*) from webhook w where not exists (select 1 from webhook_feed f \
         where f.org = w.org and f.id = w.id)) + (select count(*) from webhook_feed f \
         where not exists (select 1 from webhook w where w.org = f.org and w.id = f.id))",
    ),
    rule(
        "every MCP server has its state, and every state its server",
        "select (select count(*) from mcp_server m where not exists (select 1 from mcp_state s \
         where s.org = m.org and s.id = m.id)) + (select count(*) from mcp_state s \
         where not exists (select 1 from mcp_server m where m.org = s.org and m.id = s.id))",
    ),
    rule(
        "calls of runs are kept apart only until they end",
        "select count(*) from run_tool t where not exists (select 1 from run r \
         where r.org = t.org and r.id = t.run and r.finished_at is null)",
    ),
    rule(
        "every delivery, and every job that delivers, has its webhook",
        "select (select count(*) from webhook_delivery d where not exists (select 1 \
         from webhook w where w.org = d.org and w.id = d.webhook)) + (select count(*) from job j \
         where j.kind = 'webhook' and not exists (select 1 from webhook w \
         where w.org = j.org and w.id = j.id))",
    ),
    rule(
        "episodes that wait are counted, and their group has a job",
        "select (select count(*) from graph_queue q where q.pending <> (select count(*) \
         from graph_episode e where e.org = q.org and e.group_id = q.group_id \
         and e.state = 'pending' and e.state <> 'done') or not exists (select 1 from job j \
         where j.org = q.org and j.id = q.lane and j.kind = 'graph')) + (select count(*) \
         from graph_episode e where e.state = 'pending' and e.state <> 'done' and not exists \
         (select 1 from graph_queue q where q.org = e.org and q.group_id = e.group_id))",
    ),
    rule(
        "episodes that wait for a model have a job that asks it",
        "select (select count(*) from graph_ask a where not exists (select 1 from graph_asking q \
         where q.org = a.org and q.group_id = a.group_id and q.work = a.work) or not exists \
         (select 1 from graph_episode e where e.org = a.org and e.group_id = a.group_id \
         and e.id = a.episode)) + (select count(*) from graph_asking q where not exists \
         (select 1 from job j where j.org = q.org and j.id = q.lane and j.kind = 'graph_model'))",
    ),
    rule(
        "what a model said has a job that stores it",
        "select count(*) from graph_answer a where not exists (select 1 from graph_queue q \
         where q.org = a.org and q.group_id = a.group_id)",
    ),
    rule(
        "runs are counted",
        "select count(*) from org o where (select coalesce(sum(n), 0) from c \
         where c.org = o.id and c.kind = 'runs') \
         <> (select count(*) from run r where r.org = o.id)",
    ),
    rule(
        "waiting runs are counted, for each organisation and in all",
        "select count(*) from (select org, sum(n) as n from (\
         select org, n from c where kind = 'runs_waiting' and exists \
         (select 1 from org o where o.id = c.org) union all \
         select org, -1 as n from run where status = 'queued') as both_sides \
         group by org having sum(n) <> 0 union all select org, n from c \
         where kind = 'runs_waiting' and (select coalesce(sum(n), 0) from c \
         where kind = 'runs_waiting') <> 2 * (select count(*) from run \
         where status = 'queued')) as wrong",
    ),
    rule(
        "messages are counted",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'messages' union all \
         select org, session as id, -1 as n from message) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    rule(
        "findable texts are counted",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'text_documents' union all \
         select org, scope as id, -1 as n from text_doc) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    rule(
        "the words of findable texts are counted",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'text_tokens' union all \
         select org, scope as id, -length as n from text_doc) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    rule(
        "the log has no gap, and its head is its end",
        "select count(*) from log_head h where h.seq <> (select coalesce(max(seq), 0) from log) \
         or (select count(*) from log) <> \
         (select coalesce(max(seq) - min(seq) + 1, 0) from log)",
    ),
    deep(
        "every run that was begun has its input, and no other has",
        "select count(*) from run r where (select count(*) from message m where m.org = r.org \
         and m.session = r.session and m.run = r.id and m.role = 'user' and m.id = r.message \
         and m.content = r.input) <> case when r.status = 'queued' \
         or (r.status = 'cancelled' and r.message is null) then 0 else 1 end",
    ),
    deep(
        "every run that has a reply has its message, and no other has",
        "select count(*) from run r where (select count(*) from message m where m.org = r.org \
         and m.session = r.session and m.run = r.id and m.role = 'assistant' \
         and m.content = r.reply) <> case when r.status = 'succeeded' \
         or r.reply is not null then 1 else 0 end",
    ),
    deep(
        "every goal that is below another has that one",
        "select count(*) from goal g where g.parent_goal_id is not null and not exists \
         (select 1 from goal a where a.org = g.org and a.id = g.parent_goal_id)",
    ),
    deep(
        "every task that waits for another is there, and so is that one",
        "select count(*) from task_dependency d where not exists (select 1 from task t \
         where t.org = d.org and t.id = d.task) or not exists (select 1 from task t \
         where t.org = d.org and t.id = d.needs)",
    ),
    // Goals outlive their agents, and plans their goals: clients are told of
    // that, and what they name stays.
    deep(
        "goals, plans and tasks belong to an organisation",
        "select (select count(*) from goal g where not exists \
         (select 1 from org o where o.id = g.org)) + (select count(*) from plan p where not exists \
         (select 1 from org o where o.id = p.org)) + (select count(*) from task t where not exists \
         (select 1 from org o where o.id = t.org))",
    ),
    deep(
        "every file has its session",
        "select count(*) from session_file f where not exists \
         (select 1 from session s where s.org = f.org and s.id = f.session)",
    ),
    deep(
        "files are counted",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'files' union all \
         select org, session as id, -1 as n from session_file) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    deep(
        "every file has all of its content",
        "select count(*) from session_file f where f.bytes <> (select coalesce(sum(length(k.data)), 0) \
         from file_chunk k where k.org = f.org and k.content = f.content) or (select count(*) \
         from file_chunk k where k.org = f.org and k.content = f.content) <> \
         (select coalesce(max(k.n) + 1, 0) from file_chunk k \
         where k.org = f.org and k.content = f.content)",
    ),
    deep(
        "every content has its file, or is still arriving",
        "select count(*) from (select distinct org, content from file_chunk) as k where not exists \
         (select 1 from session_file f where f.org = k.org and f.content = k.content) \
         and not exists (select 1 from file_upload u where u.org = k.org and u.content = k.content)",
    ),
    deep(
        "every content that is still arriving has its session",
        "select count(*) from file_upload u where not exists \
         (select 1 from session s where s.org = u.org and s.id = u.session)",
    ),
    deep(
        "every node has its degrees and its names, and these their node",
        "select (select count(*) from graph_node n where not exists (select 1 from graph_degree d \
         where d.org = n.org and d.group_id = n.group_id and d.node = n.id)) + (select count(*) \
         from graph_degree d where not exists (select 1 from graph_node n where n.org = d.org \
         and n.group_id = d.group_id and n.id = d.node)) + (select count(*) from graph_node_name a \
         where not exists (select 1 from graph_node n where n.org = a.org \
         and n.group_id = a.group_id and n.id = a.node and n.kind = a.kind))",
    ),
    deep(
        "every edge has both of its nodes",
        "select count(*) from graph_edge e where not exists (select 1 from graph_node n \
         where n.org = e.org and n.group_id = e.group_id and n.id = e.from_node) or not exists \
         (select 1 from graph_node n where n.org = e.org and n.group_id = e.group_id \
         and n.id = e.to_node)",
    ),
    deep(
        "degrees of nodes are those of their edges",
        "select count(*) from (select org, group_id, node from (select org, group_id, node, i, o \
         from d union all select org, group_id, to_node, -1, 0 from graph_edge union all \
         select org, group_id, from_node, 0, -1 from graph_edge) as both_sides where exists \
         (select 1 from graph_node n where n.org = both_sides.org \
         and n.group_id = both_sides.group_id and n.id = both_sides.node) \
         group by org, group_id, node having sum(i) <> 0 or sum(o) <> 0) as wrong",
    ),
    deep(
        "categories of nodes follow from their degrees",
        "select count(*) from graph_degree where degree <> in_degree + out_degree or category <> \
         case when in_degree > 0 then case when out_degree > 0 then 3 else 2 end \
         else case when out_degree > 0 then 1 else 0 end end",
    ),
    deep(
        "every mention and vector has its episode, and every piece of evidence its episode and its \
         fact",
        "select (select count(*) from graph_vector v where not exists (select 1 \
         from graph_episode e where e.org = v.org and e.group_id = v.group_id \
         and e.id = v.episode)) + (select count(*) from graph_mention m where not exists (select 1 \
         from graph_episode e where e.org = m.org and e.group_id = m.group_id \
         and e.id = m.episode)) + (select count(*) from graph_fact_evidence v where not exists \
         (select 1 from graph_episode e where e.org = v.org and e.group_id = v.group_id \
         and e.id = v.episode) or not exists (select 1 from graph_fact f where f.org = v.org \
         and f.group_id = v.group_id and f.id = v.fact))",
    ),
    deep(
        "nodes and edges are counted, and each kind and category of them",
        "select count(*) from (select org, kind, key from (select org, kind, key, n from c \
         where kind in ('graph_nodes', 'graph_edges', 'graph_node_kinds', 'graph_edge_kinds', \
         'graph_isolated', 'graph_entry_points', 'graph_leaves', 'graph_episodes', 'graph_facts') \
         union all select org, kind, key, -1 from g) as both_sides \
         group by org, kind, key having sum(n) <> 0) as wrong",
    ),
    deep(
        "nothing is made or ended twice in the log",
        "select count(*) from (select 1 from e where kind in ('agent.created', 'agent.deleted', \
         'session.created', 'session.deleted', 'run.created', 'run.finished', 'message.created') \
         group by org, kind, id having count(*) > 1) as twice",
    ),
];

/// `d` are the degrees of nodes, `g` what a graph's counters count: one row for each
/// thing that one of them counts.
const ON_SQLITE: &str = "with c as (select org, kind, key, n from counter), \
    e as (select org, kind, id from log), \
    d as (select org, group_id, node, in_degree as i, out_degree as o from graph_degree), \
    g as (select org, 'graph_nodes' as kind, cast(group_id as blob) as key from graph_node \
    union all select org, 'graph_node_kinds', cast(group_id || char(0) || kind as blob) \
    from graph_node union all select org, 'graph_edges', cast(group_id as blob) from graph_edge \
    union all select org, 'graph_edge_kinds', cast(group_id || char(0) || kind as blob) \
    from graph_edge union all select org, case category when 0 then 'graph_isolated' \
    when 1 then 'graph_entry_points' else 'graph_leaves' end, cast(group_id as blob) \
    from graph_degree where category < 3 union all select org, 'graph_episodes', \
    cast(group_id as blob) from graph_episode union all select org, 'graph_facts', \
    cast(group_id as blob) from graph_fact) ";
const ON_POSTGRES: &str = "with c as (select org, kind, key, n from counter \
    union all select org, kind, key, n from counter_change), \
    e as (select org, kind, id from log union all select org, kind, id from log_pending), \
    d as (select org, group_id, node, in_degree as i, out_degree as o from graph_degree \
    union all select org, group_id, node, in_degree, out_degree from graph_degree_change), \
    g as (select org, 'graph_nodes' as kind, convert_to(group_id, 'UTF8') as key from graph_node \
    union all select org, 'graph_node_kinds', convert_to(group_id, 'UTF8') || '\\x00'::bytea \
    || convert_to(kind, 'UTF8') from graph_node \
    union all select org, 'graph_edges', convert_to(group_id, 'UTF8') from graph_edge \
    union all select org, 'graph_edge_kinds', convert_to(group_id, 'UTF8') || '\\x00'::bytea \
    || convert_to(kind, 'UTF8') from graph_edge union all select org, case category \
    when 0 then 'graph_isolated' when 1 then 'graph_entry_points' else 'graph_leaves' end, \
    convert_to(group_id, 'UTF8') from graph_degree where category < 3 \
    union all select org, 'graph_episodes', convert_to(group_id, 'UTF8') from graph_episode \
    union all select org, 'graph_facts', convert_to(group_id, 'UTF8') from graph_fact) ";

/// What findable texts are of, in the order of the tables.
const INDEXED: &str = "select (select count(*) from text_doc d left join text_index_docsize i \
    on i.id = d.doc where i.id is null) + (select count(*) from text_index_docsize i \
    left join text_doc d on d.doc = i.id where d.doc is null)";

/// Each check's name and statement.
fn rules(is_deep: bool) -> impl Iterator<Item = (String, String)> {
    let counted = sql::counted_tables().map(|(table, counter)| {
        let text = format!(
            "select count(*) from org o where (select coalesce(sum(n), 0) from c \
             where c.org = o.id and c.kind = '{counter}') \
             <> (select count(*) from {table} t where t.org = o.id)"
        );
        (format!("{counter} are counted"), text)
    });
    let wanted = RULES.iter().filter(move |rule| is_deep || !rule.deep);
    counted.chain(wanted.map(|rule| (rule.name.to_owned(), rule.sql.to_owned())))
}

/// Runs every check on the data that these options name. `deep` reads the whole
/// file, and more of the tables.
pub async fn examine(options: &Options, deep: bool) -> Result<Vec<Check>> {
    if let Some(url) = &options.database {
        return on_postgres(url, deep).await;
    }
    let data = options.data.clone();
    tokio::task::spawn_blocking(move || on_sqlite(&data, deep))
        .await
        .map_err(|_| StoreError::Closed)?
}

fn schema_check(found: i64, known: i64) -> Check {
    let name = "the schema is the one that this version knows".to_owned();
    if found == known {
        return Check::counted(name, 0);
    }
    let detail = if found < known {
        format!(
            "it is {found}, and this version knows {known}: start the server once to bring it up"
        )
    } else {
        format!("it is {found}, and this version knows {known}: use a later version")
    };
    Check { name, faults: 1, details: vec![detail] }
}

fn on_sqlite(data: &Path, deep: bool) -> Result<Vec<Check>> {
    let connection = sqlite::open_reader(&data.join(FILE_NAME))?;
    // One look at one moment.
    connection.execute_batch("begin")?;
    let pragma = if deep { "integrity_check" } else { "quick_check" };
    let mut checks = vec![file_check(&connection, pragma)?];
    let schema = schema_check(sqlite::schema(&connection)?, sqlite::newest_schema());
    let is_known = schema.faults == 0;
    checks.push(schema);
    if !is_known {
        return Ok(checks);
    }
    let count = |text: &str| -> Result<i64> {
        let found = connection.query_row(text, [], |row| row.get(0)).optional()?;
        Ok(found.unwrap_or(0))
    };
    for (name, text) in rules(deep) {
        checks.push(Check::counted(name, count(&format!("{ON_SQLITE}{text}"))?));
    }
    checks
        .push(Check::counted("every findable text is in the index, and no other", count(INDEXED)?));
    Ok(checks)
}

fn file_check(connection: &Connection, pragma: &str) -> Result<Check> {
    let mut statement = connection.prepare(&format!("pragma {pragma}"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut details = lines.collect::<rusqlite::Result<Vec<_>>>()?;
    details.retain(|line| line != "ok");
    let name = format!("the file is well ({pragma})");
    Ok(Check { name, faults: details.len() as u64, details })
}

async fn on_postgres(url: &str, deep: bool) -> Result<Vec<Check>> {
    let client = Target::parse(url)?.look_around().await?;
    let transaction = "begin isolation level repeatable read read only";
    client.batch_execute(transaction).await?;
    let schema = client.query_opt(SCHEMA_POSTGRES, &[]).await?;
    let found = schema.map_or(Ok(0), |row| row.try_get::<_, i32>(0))?;
    let schema = schema_check(i64::from(found), postgres::newest_schema());
    let is_known = schema.faults == 0;
    let mut checks = vec![schema];
    if !is_known {
        return Ok(checks);
    }
    for (name, text) in rules(deep) {
        let row = client.query_one(&format!("{ON_POSTGRES}{text}"), &[]).await?;
        checks.push(Check::counted(name, row.try_get(0)?));
    }
    client.batch_execute("rollback").await?;
    Ok(checks)
}

const SCHEMA_POSTGRES: &str = "select max(version) from refinery_schema_history";
