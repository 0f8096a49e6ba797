//! What must agree inside a database whatever happened to it: rows, counters,
//! lanes, the log and the text index tell one story. Each check is a statement
//! that counts faults. It reads the tables as they are, past the store's own
//! code, so that a fault in that code does not hide itself.

use std::path::Path;

use rusqlite::Connection;

/// Name and text; `c` are the counters, `e` the entries of the log, `m` the
/// messages, wherever an engine keeps them.
const CHECKS: &[(&str, &str)] = &[
    (
        "a run without its session",
        "select count(*) from run r where not exists \
         (select 1 from session s where s.org = r.org and s.id = r.session)",
    ),
    (
        "a message without its session",
        "select count(*) from message m where not exists \
         (select 1 from session s where s.org = m.org and s.id = m.session)",
    ),
    (
        "a message without its run",
        "select count(*) from message m where m.run is not null and not exists \
         (select 1 from run r where r.org = m.org and r.id = m.run)",
    ),
    (
        "a run that was begun and has not exactly its input, or was not and has one",
        "select count(*) from run r where (select count(*) from message m where m.org = r.org \
         and m.session = r.session and m.run = r.id and m.role = 'user' and m.id = r.message \
         and m.content = r.input) <> case when r.status = 'queued' \
         or (r.status = 'cancelled' and r.message is null) then 0 else 1 end \
         or (select count(*) from message m where m.org = r.org and m.session = r.session \
         and m.run = r.id and m.role = 'user') > 1",
    ),
    (
        "a run that has a reply and not exactly its message, or has none and has one",
        "select count(*) from run r where (select count(*) from message m where m.org = r.org \
         and m.session = r.session and m.run = r.id and m.role = 'assistant' \
         and m.content = r.reply) <> case when r.status = 'succeeded' \
         or r.reply is not null then 1 else 0 end \
         or (select count(*) from message m where m.org = r.org and m.session = r.session \
         and m.run = r.id and m.role = 'assistant') > 1",
    ),
    (
        "a run whose end and status differ",
        "select count(*) from run r \
         where (r.finished_at is null) <> (r.status in ('queued', 'running'))",
    ),
    (
        "a run that has not ended and has no job, or has and has one",
        "select count(*) from run r where (select count(*) from job j where j.org = r.org \
         and j.id = r.id and j.lane = r.session) \
         <> case when r.finished_at is null then 1 else 0 end",
    ),
    (
        "a chunk of a run that has ended, or is not there",
        "select count(*) from run_chunk c where not exists (select 1 from run r \
         where r.org = c.org and r.id = c.run and r.finished_at is null)",
    ),
    (
        "a chunk of an attempt that was not begun",
        "select count(*) from run_chunk c join run r on r.org = c.org and r.id = c.run \
         where c.attempt < 1 or c.attempt > r.attempt",
    ),
    (
        "text of a run with a gap or a double",
        "select count(*) from run_chunk c where c.byte_offset <> (select coalesce(sum(\
         octet_length(b.text)), 0) from run_chunk b where b.org = c.org and b.run = c.run \
         and b.attempt = c.attempt and b.byte_offset < c.byte_offset)",
    ),
    (
        "a job without its run",
        "select count(*) from job j where j.kind not in ('graph', 'graph_model') and not exists \
         (select 1 from run r where r.org = j.org and r.id = j.id)",
    ),
    (
        "episodes that wait without being counted, or without a job",
        "select (select count(*) from graph_queue q where q.pending <> (select count(*) \
         from graph_episode e where e.org = q.org and e.group_id = q.group_id \
         and e.state = 'pending') or not exists (select 1 from job j where j.org = q.org \
         and j.id = q.lane)) + (select count(*) from graph_episode e where e.state = 'pending' \
         and not exists (select 1 from graph_queue q where q.org = e.org \
         and q.group_id = e.group_id))",
    ),
    (
        "a lane that does not count its jobs, or has none",
        "select count(*) from lane l where l.depth = 0 or l.depth <> \
         (select count(*) from job j where j.org = l.org and j.lane = l.id)",
    ),
    (
        "a job without its lane",
        "select count(*) from job j where not exists \
         (select 1 from lane l where l.org = j.org and l.id = j.lane)",
    ),
    (
        "a lane whose first job alone is not its head",
        "select count(*) from job j where j.head <> case when exists (select 1 from job i \
         where i.org = j.org and i.lane = j.lane and i.position < j.position) then 0 else 1 end",
    ),
    (
        "a job that is claimed and not its lane's head",
        "select count(*) from job where claimed = 1 and head = 0",
    ),
    (
        "agents that are not counted",
        "select count(*) from org o where (select coalesce(sum(n), 0) from c \
         where c.org = o.id and c.kind = 'agents') \
         <> (select count(*) from agent a where a.org = o.id)",
    ),
    (
        "sessions that are not counted",
        "select count(*) from org o where (select coalesce(sum(n), 0) from c \
         where c.org = o.id and c.kind = 'sessions') \
         <> (select count(*) from session s where s.org = o.id)",
    ),
    (
        "runs that are not counted",
        "select count(*) from org o where (select coalesce(sum(n), 0) from c \
         where c.org = o.id and c.kind = 'runs') \
         <> (select count(*) from run r where r.org = o.id)",
    ),
    (
        "waiting runs that are not counted, or counted and not there",
        "select count(*) from (select 1 as one where (select coalesce(sum(n), 0) from c \
         where kind = 'runs_waiting') <> 2 * (select count(*) from run \
         where status = 'queued')) as wrong",
    ),
    (
        "messages that are not counted, or counted and not there",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'messages' union all \
         select org, session as id, -1 as n from message) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    (
        "findable texts that are not counted, or counted and not there",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'text_documents' union all \
         select org, scope as id, -1 as n from text_doc) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    (
        "words of findable texts that are not counted",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, key as id, n from c where kind = 'text_tokens' union all \
         select org, scope as id, -length as n from text_doc) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    (
        "a findable text without its message",
        "select count(*) from text_doc d where not exists (select 1 from message m \
         where m.org = d.org and m.session = d.session and m.id = d.id)",
    ),
    (
        "a message of a user that cannot be found",
        "select count(*) from message m where m.role = 'user' and not exists \
         (select 1 from text_doc d where d.org = m.org and d.id = m.id)",
    ),
    (
        "a log with gaps or another head",
        "select count(*) from log_head h where h.seq <> (select count(*) from log) \
         or h.seq <> (select coalesce(max(seq), 0) from log)",
    ),
    (
        "an entry that is there twice",
        "select count(*) from (select 1 from e where kind in ('agent.created', 'agent.deleted', \
         'session.created', 'session.deleted', 'run.created', 'run.finished', 'message.created') \
         group by org, kind, id having count(*) > 1) as twice",
    ),
    (
        "agents, and those that the log made and did not delete, differ",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, id, case kind when 'agent.created' then 1 else -1 end as n from e \
         where kind in ('agent.created', 'agent.deleted') union all \
         select org, id, -1 as n from agent) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    (
        "sessions, and those that the log made and did not delete, differ",
        "select count(*) from (select org, id, sum(n) as n from (\
         select org, id, case kind when 'session.created' then 1 else -1 end as n from e \
         where kind in ('session.created', 'session.deleted') union all \
         select org, id, -1 as n from session) as both_sides \
         group by org, id having sum(n) <> 0) as wrong",
    ),
    (
        "an agent whose version and changes in the log differ",
        "select count(*) from agent a left join (select org, id, count(*) as n from e \
         where kind = 'agent.updated' group by org, id) u on u.org = a.org and u.id = a.id \
         where a.version - 1 <> coalesce(u.n, 0)",
    ),
    (
        "a session whose version and changes in the log differ",
        "select count(*) from session s left join (select org, id, count(*) as n from e \
         where kind = 'session.updated' group by org, id) u on u.org = s.org and u.id = s.id \
         where s.version - 1 <> coalesce(u.n, 0)",
    ),
    (
        "a run that the log does not know as made",
        "select count(*) from run r left join (select org, id, count(*) as n from e \
         where kind = 'run.created' group by org, id) x on x.org = r.org and x.id = r.id \
         where coalesce(x.n, 0) <> 1",
    ),
    (
        "a run whose end and the log's differ",
        "select count(*) from run r left join (select org, id, count(*) as n from e \
         where kind = 'run.finished' group by org, id) x on x.org = r.org and x.id = r.id \
         where coalesce(x.n, 0) <> case when r.finished_at is null then 0 else 1 end",
    ),
    (
        "a message that the log does not know as made",
        "select count(*) from message m left join (select org, id, count(*) as n from e \
         where kind = 'message.created' group by org, id) x on x.org = m.org and x.id = m.id \
         where coalesce(x.n, 0) <> 1",
    ),
];

const ON_SQLITE: &str = "with c as (select org, kind, key, n from counter), \
    e as (select org, kind, id from log) ";
const ON_POSTGRES: &str = "with c as (select org, kind, key, n from counter \
    union all select org, kind, key, n from counter_change), \
    e as (select org, kind, id from log union all select org, kind, id from log_pending) ";

/// What is wrong in an SQLite database that nobody serves.
pub(crate) fn faults_on_sqlite(file: &Path) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut faults = Vec::new();
    // Looks into the text index too.
    let mut check = connection.prepare("pragma integrity_check").unwrap();
    let lines = check.query_map([], |row| row.get::<_, String>(0)).unwrap();
    faults.extend(lines.map(Result::unwrap).filter(|line| line != "ok"));
    let only_here = [(
        "texts that the index does not hold, or holds and should not",
        "select (select count(*) from text_doc d left join text_index_docsize i \
         on i.id = d.doc where i.id is null) + (select count(*) from text_index_docsize i \
         left join text_doc d on d.doc = i.id where d.doc is null)",
    )];
    for (name, sql) in CHECKS.iter().chain(&only_here) {
        let counted = connection.query_row(&format!("{ON_SQLITE}{sql}"), [], |row| row.get(0));
        let counted: i64 = counted.unwrap_or_else(|error| panic!("{name}: {error}"));
        if counted != 0 {
            faults.push(format!("{name}: {counted}"));
        }
    }
    faults
}

/// What is wrong in a PostgreSQL database, whoever writes to it.
pub(crate) async fn faults_on_postgres(url: &str) -> Vec<String> {
    let (mut client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let check = async {
        // One look at one moment.
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .unwrap();
        let mut faults = Vec::new();
        for (name, sql) in CHECKS {
            let counted = transaction.query_one(&format!("{ON_POSTGRES}{sql}"), &[]).await;
            let counted: i64 = counted.unwrap_or_else(|error| panic!("{name}: {error:?}")).get(0);
            if counted != 0 {
                faults.push(format!("{name}: {counted}"));
            }
        }
        drop(transaction);
        faults
    };
    tokio::select! {
        faults = check => faults,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}
