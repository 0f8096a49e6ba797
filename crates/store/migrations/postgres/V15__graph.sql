-- The same tables as on SQLite, and the one that several writers need.
--
-- The knowledge graph. Every key begins with the organisation and the caller's own
-- name for a group of it: what one group holds no other one sees. Plain graphs, such
-- as one of code, and what is drawn out of episodes live in the same tables.

-- A thing. key is the caller's own id of it, if it has one, and one node of a group
-- alone has it. aliases is a JSON array of other names, properties the client's JSON
-- object. origin says who made it: 'client', or whatever drew it out of episodes.
create table graph_node (
    org bytea not null,
    group_id text collate "C" not null,
    id bytea not null,
    key text collate "C",
    kind text collate "C" not null,
    name text collate "C" not null,
    aliases text collate "C" not null,
    language text collate "C",
    properties text collate "C" not null,
    origin text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (org, group_id, id)
);
create unique index graph_node_by_key on graph_node (key, org, group_id) where key is not null;
create index graph_node_by_kind on graph_node (kind, org, group_id, id);

-- What a node is found by: its name and its aliases in normal form (lower case, words
-- with one blank between), and of each the ends that begin with a later word, so that
-- an index finds a word in the middle of a name. part says which: 0 the name, 1 an
-- alias, 2 an end of one. "Exactly this name or alias" is part < 2. kind is the node's.
create table graph_node_name (
    org bytea not null,
    group_id text collate "C" not null,
    name text collate "C" not null,
    node bytea not null,
    part bigint not null,
    kind text collate "C" not null,
    primary key (org, group_id, name, node)
);

-- How many edges begin and end at a node; an edge from a node to itself does both.
-- category follows from that: 0 isolated, 1 entry point (none in, some out), 2 leaf
-- (some in, none out), 3 neither. Each node has its row from the beginning.
create table graph_degree (
    org bytea not null,
    group_id text collate "C" not null,
    node bytea not null,
    in_degree bigint not null,
    out_degree bigint not null,
    degree bigint not null,
    category bigint not null,
    primary key (org, group_id, node)
);
create index graph_degree_by_category on graph_degree (category, org, group_id, node);
create index graph_degree_by_degree on graph_degree (org, group_id, degree desc, node)
    where degree > 0;

-- What degrees grow by, appended by whoever writes edges, so that no node is a hot row;
-- the keeper folds it into graph_degree, and the categories into their counters, within
-- a second.
create table graph_degree_change (
    org bytea not null,
    group_id text collate "C" not null,
    node bytea not null,
    in_degree bigint not null,
    out_degree bigint not null
);

-- From one node to another. Between two nodes, in one direction, there is one edge of
-- a kind; what comes again changes its weight and properties.
create table graph_edge (
    org bytea not null,
    group_id text collate "C" not null,
    from_node bytea not null,
    kind text collate "C" not null,
    to_node bytea not null,
    id bytea not null,
    weight double precision not null,
    properties text collate "C" not null,
    origin text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (org, group_id, id)
);
create unique index graph_edge_by_from on graph_edge (from_node, org, group_id, kind, to_node);
create index graph_edge_by_to on graph_edge (to_node, org, group_id, kind, from_node);

-- A node that is another one: merged is read as into_node. To undo a merge is to
-- delete its row; nothing else changes. cause says who found out, and why.
create table graph_merge (
    org bytea not null,
    group_id text collate "C" not null,
    merged bytea not null,
    into_node bytea not null,
    cause text collate "C" not null,
    created_at bigint not null,
    primary key (org, group_id, merged)
);
create index graph_merge_by_into on graph_merge (into_node, org, group_id, merged);

-- Something that was said or happened, as it came. The hash of its content is there
-- once in a group. seq orders the episodes of a group, and of a session in it, by what
-- happened first; episodes that have the same are in the order of their ids. state is
-- how far its extraction is, extractor which one has been through, attempts and error
-- what came of it. message is the session's message that it repeats.
-- Statements that go by state say state <> 'done' too: the index has no others.
create table graph_episode (
    org bytea not null,
    group_id text collate "C" not null,
    id bytea not null,
    hash bytea not null,
    kind text collate "C" not null,
    role text collate "C" not null,
    speaker text collate "C",
    source text collate "C" not null,
    content text collate "C" not null,
    session_id text collate "C",
    user_id text collate "C",
    message bytea,
    seq bigint not null,
    occurred_at bigint not null,
    ingested_at bigint not null,
    state text collate "C" not null,
    extractor text collate "C",
    attempts bigint not null,
    error text collate "C",
    metadata text collate "C" not null,
    primary key (org, group_id, id)
);
create unique index graph_episode_by_hash on graph_episode (hash, org, group_id);
create index graph_episode_by_seq on graph_episode (org, group_id, seq, id);
create index graph_episode_by_session on graph_episode (session_id, org, group_id, seq, id)
    where session_id is not null;
create index graph_episode_by_user on graph_episode (user_id, org, group_id, id)
    where user_id is not null;
create index graph_episode_by_state on graph_episode (state, org, group_id, id)
    where state <> 'done';

-- Where an episode names a node: from byte span_start to before byte span_end of its
-- content.
create table graph_mention (
    org bytea not null,
    group_id text collate "C" not null,
    episode bytea not null,
    span_start bigint not null,
    node bytea not null,
    span_end bigint not null,
    primary key (org, group_id, episode, span_start, node)
);
create index graph_mention_by_node on graph_mention (node, org, group_id, episode);

-- What holds of a node: of an other node, or of a literal. True in the world from
-- valid_at to before invalid_at, null for open; known here from created_at to before
-- expired_at. A fact is never changed but to be closed. hash is what tells it from
-- others, of its maker's making; confidence is 0 to 1.
create table graph_fact (
    org bytea not null,
    group_id text collate "C" not null,
    id bytea not null,
    hash bytea not null,
    subject bytea not null,
    predicate text collate "C" not null,
    object_node bytea,
    object_text text collate "C",
    text text collate "C" not null,
    valid_at bigint,
    invalid_at bigint,
    created_at bigint not null,
    expired_at bigint,
    confidence double precision not null,
    extractor text collate "C" not null,
    extractor_version text collate "C" not null,
    metadata text collate "C" not null,
    primary key (org, group_id, id)
);
create unique index graph_fact_by_hash on graph_fact (hash, org, group_id);
create index graph_fact_by_subject on graph_fact (subject, org, group_id, predicate, id);
create index graph_fact_by_object on graph_fact (object_node, org, group_id, predicate, id)
    where object_node is not null;
create index graph_fact_by_predicate on graph_fact (predicate, org, group_id, id);

-- What a fact rests on: the words of an episode.
create table graph_fact_evidence (
    org bytea not null,
    group_id text collate "C" not null,
    fact bytea not null,
    episode bytea not null,
    quote text collate "C" not null,
    primary key (org, group_id, fact, episode)
);
create index graph_fact_evidence_by_episode on graph_fact_evidence (episode, org, group_id, fact);
