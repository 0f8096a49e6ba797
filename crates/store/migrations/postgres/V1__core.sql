-- Every key begins with the organisation. Times are microseconds since 1970,
-- ids are 16 bytes, JSON is text. The same tables as on SQLite, and those that
-- several writers need: what they append, and what the keeper makes of it.

create table org (
    id bytea primary key,
    name text collate "C" not null,
    created_at bigint not null
);

create table api_key (
    hash bytea primary key,
    org bytea not null,
    id bytea not null,
    name text collate "C" not null,
    role text collate "C" not null,
    prefix text collate "C" not null,
    created_at bigint not null
);
create unique index api_key_by_id on api_key (org, id);

create table agent (
    org bytea not null,
    id bytea not null,
    name text collate "C" not null,
    description text collate "C" not null,
    agent_type text collate "C" not null,
    status text collate "C" not null,
    model text collate "C" not null,
    instructions text collate "C" not null,
    tools text collate "C" not null,
    recall bigint not null,
    remember bigint not null,
    recall_limit bigint not null,
    configuration text collate "C" not null,
    metadata text collate "C" not null,
    resource_limits text collate "C" not null,
    did text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (org, id)
);
-- Secondary indexes begin with the column that they are for, and have the
-- organisation second: on a table that has no statistics yet PostgreSQL takes an
-- index of (org, name, id) for as good as the key (org, id), and then reads all of
-- an organisation's rows to find one by its id.
create index agent_by_name on agent (name, org, id);

-- A session of nobody has the user ''.
create table session (
    org bytea not null,
    id bytea not null,
    name text collate "C",
    user_id text collate "C" not null,
    origin text collate "C",
    status text collate "C" not null,
    metadata text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (org, id)
);
create unique index session_by_name on session (name, org, user_id) where name is not null;
create index session_by_user on session (user_id, org, id);

create table message (
    org bytea not null,
    session bytea not null,
    id bytea not null,
    run bytea,
    role text collate "C" not null,
    content text collate "C" not null,
    metadata text collate "C" not null,
    created_at bigint not null,
    primary key (org, session, id)
);

create table run (
    org bytea not null,
    id bytea not null,
    agent bytea not null,
    session bytea not null,
    user_id text collate "C",
    status text collate "C" not null,
    message bytea,
    input text collate "C" not null,
    message_limit bigint,
    given text collate "C",
    system_prompt text collate "C",
    context text collate "C",
    parameters text collate "C",
    timeout_ms bigint,
    model text collate "C",
    metadata text collate "C" not null,
    reply text collate "C",
    error_code text collate "C",
    error_detail text collate "C",
    input_tokens bigint,
    output_tokens bigint,
    attempt bigint not null,
    created_at bigint not null,
    started_at bigint,
    finished_at bigint,
    primary key (org, id)
);
create index run_by_session on run (session, org, id);

-- A lane's row exists while it has a job.
create table lane (
    org bytea not null,
    id bytea not null,
    depth bigint not null,
    tail bigint not null,
    primary key (org, id)
);

create table job (
    org bytea not null,
    id bytea not null,
    lane bytea not null,
    position bigint not null,
    kind text collate "C" not null,
    head bigint not null,
    claimed bigint not null,
    worker bytea not null,
    fence bigint not null,
    attempts bigint not null,
    next_at bigint not null,
    created_at bigint not null,
    primary key (org, id)
);
create unique index job_by_lane on job (lane, org, position);
create index job_claimable on job (next_at) where head = 1 and claimed = 0;
create index job_claimed on job (worker) where claimed = 1;

create table worker (
    id bytea primary key,
    until bigint not null
);

create table counter (
    org bytea not null,
    kind text collate "C" not null,
    key bytea not null,
    n bigint not null,
    primary key (org, kind, key)
);

create table log (
    seq bigint primary key,
    org bytea not null,
    at bigint not null,
    kind text collate "C" not null,
    entity text collate "C" not null,
    id bytea not null,
    actor bytea,
    data text collate "C" not null
);
create index log_by_org on log (org, seq);

create table log_head (
    one bigint primary key check (one = 1),
    seq bigint not null
);
insert into log_head (one, seq) values (1, 0);

-- What writers append; the keeper moves it to log, in the order of place.
create table log_pending (
    place bigint generated always as identity primary key,
    org bytea not null,
    at bigint not null,
    kind text collate "C" not null,
    entity text collate "C" not null,
    id bytea not null,
    actor bytea,
    data text collate "C" not null
);

-- Changes of counters; the keeper folds them into counter. A reader adds up
-- both, hence the index.
create table counter_change (
    org bytea not null,
    kind text collate "C" not null,
    key bytea not null,
    n bigint not null
);
create index counter_change_by_key on counter_change (org, kind, key);
-- Counters of things that are gone, to be deleted.
create index counter_zero on counter (org, kind, key) where n = 0;

-- One row for each connection that writes: the number of the last transaction
-- that it committed, written in that transaction.
create table write_mark (
    writer bigint generated always as identity primary key,
    place bigint not null,
    at bigint not null
) with (fillfactor = 50);

-- Tokens are made by us. The pending list is short, since every search reads it.
create table text_doc (
    org bytea not null,
    id bytea not null,
    session bytea not null,
    scope bytea not null,
    length bigint not null,
    tokens text collate "C" not null,
    terms tsvector not null,
    primary key (org, id)
);
create index text_doc_by_session on text_doc (session, org);
create index text_doc_by_term on text_doc using gin (terms) with (gin_pending_list_limit = 256);
