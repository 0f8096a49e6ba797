-- Every key begins with the organisation. Times are microseconds since 1970,
-- ids are 16 bytes, JSON is text.

create table org (
    id blob primary key,
    name text not null,
    created_at integer not null
) strict, without rowid;

create table api_key (
    hash blob primary key,
    org blob not null,
    id blob not null,
    name text not null,
    role text not null,
    prefix text not null,
    created_at integer not null
) strict, without rowid;
create unique index api_key_by_id on api_key (org, id);

create table agent (
    org blob not null,
    id blob not null,
    name text not null,
    description text not null,
    agent_type text not null,
    status text not null,
    model text not null,
    instructions text not null,
    tools text not null,
    recall integer not null,
    remember integer not null,
    recall_limit integer not null,
    configuration text not null,
    metadata text not null,
    resource_limits text not null,
    did text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (org, id)
) strict;
create index agent_by_name on agent (org, name, id);

-- A session of nobody has the user ''.
create table session (
    org blob not null,
    id blob not null,
    name text,
    user_id text not null,
    origin text,
    status text not null,
    metadata text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (org, id)
) strict;
create unique index session_by_name on session (org, name, user_id) where name is not null;
create index session_by_user on session (org, user_id, id);

create table message (
    org blob not null,
    session blob not null,
    id blob not null,
    run blob,
    role text not null,
    content text not null,
    metadata text not null,
    created_at integer not null,
    primary key (org, session, id)
) strict;

create table run (
    org blob not null,
    id blob not null,
    agent blob not null,
    session blob not null,
    user_id text,
    status text not null,
    message blob,
    input text not null,
    message_limit integer,
    given text,
    system_prompt text,
    context text,
    parameters text,
    timeout_ms integer,
    model text,
    metadata text not null,
    reply text,
    error_code text,
    error_detail text,
    input_tokens integer,
    output_tokens integer,
    attempt integer not null,
    created_at integer not null,
    started_at integer,
    finished_at integer,
    primary key (org, id)
) strict;
create index run_by_session on run (org, session, id);

-- A lane's row exists while it has a job.
create table lane (
    org blob not null,
    id blob not null,
    depth integer not null,
    tail integer not null,
    primary key (org, id)
) strict, without rowid;

create table job (
    org blob not null,
    id blob not null,
    lane blob not null,
    position integer not null,
    kind text not null,
    head integer not null,
    claimed integer not null,
    worker blob not null,
    fence integer not null,
    attempts integer not null,
    next_at integer not null,
    created_at integer not null,
    primary key (org, id)
) strict, without rowid;
create unique index job_by_lane on job (org, lane, position);
create index job_claimable on job (next_at) where head = 1 and claimed = 0;
create index job_claimed on job (worker) where claimed = 1;

create table worker (
    id blob primary key,
    until integer not null
) strict, without rowid;

create table counter (
    org blob not null,
    kind text not null,
    key blob not null,
    n integer not null,
    primary key (org, kind, key)
) strict, without rowid;

create table log (
    seq integer primary key,
    org blob not null,
    at integer not null,
    kind text not null,
    entity text not null,
    id blob not null,
    actor blob,
    data text not null
) strict;
create index log_by_org on log (org, seq);

create table log_head (
    one integer primary key check (one = 1),
    seq integer not null
) strict;
insert into log_head (one, seq) values (1, 0);

-- Tokens are made by us; the index holds no text and no positions.
create table text_doc (
    doc integer primary key,
    org blob not null,
    id blob not null,
    session blob not null,
    scope blob not null,
    length integer not null,
    tokens text not null
) strict;
create unique index text_doc_by_id on text_doc (org, id);
create index text_doc_by_session on text_doc (org, session);
create virtual table text_index using fts5 (
    tokens, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);
