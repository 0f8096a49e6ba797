-- The knowledge graph. Every key begins with the organisation and the caller's own
-- name for a group of it: what one group holds no other one sees. Plain graphs, such
-- as one of code, and what is drawn out of episodes live in the same tables.

-- A thing. key is the caller's own id of it, if it has one, and one node of a group
-- alone has it. aliases is a JSON array of other names, properties the client's JSON
-- object. origin says who made it: 'client', or whatever drew it out of episodes.
create table graph_node (
    org blob not null,
    group_id text not null,
    id blob not null,
    key text,
    kind text not null,
    name text not null,
    aliases text not null,
    language text,
    properties text not null,
    origin text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (org, group_id, id)
) strict, without rowid;
create unique index graph_node_by_key on graph_node (org, group_id, key) where key is not null;
create index graph_node_by_kind on graph_node (org, group_id, kind, id);

-- What a node is found by: its name and its aliases in normal form (lower case, words
-- with one blank between), and of each the ends that begin with a later word, so that
-- an index finds a word in the middle of a name. part says which: 0 the name, 1 an
-- alias, 2 an end of one. "Exactly this name or alias" is part < 2. kind is the node's.
create table graph_node_name (
    org blob not null,
    group_id text not null,
    name text not null,
    node blob not null,
    part integer not null,
    kind text not null,
    primary key (org, group_id, name, node)
) strict, without rowid;

-- How many edges begin and end at a node; an edge from a node to itself does both.
-- category follows from that: 0 isolated, 1 entry point (none in, some out), 2 leaf
-- (some in, none out), 3 neither. Each node has its row from the beginning.
create table graph_degree (
    org blob not null,
    group_id text not null,
    node blob not null,
    in_degree integer not null,
    out_degree integer not null,
    degree integer not null,
    category integer not null,
    primary key (org, group_id, node)
) strict, without rowid;
create index graph_degree_by_category on graph_degree (org, group_id, category, node);
create index graph_degree_by_degree on graph_degree (org, group_id, degree desc, node)
    where degree > 0;

-- From one node to another. Between two nodes, in one direction, there is one edge of
-- a kind; what comes again changes its weight and properties.
create table graph_edge (
    org blob not null,
    group_id text not null,
    from_node blob not null,
    kind text not null,
    to_node blob not null,
    id blob not null,
    weight real not null,
    properties text not null,
    origin text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (org, group_id, from_node, kind, to_node)
) strict, without rowid;
create unique index graph_edge_by_id on graph_edge (org, group_id, id);
create index graph_edge_by_to on graph_edge (org, group_id, to_node, kind, from_node);

-- A node that is another one: merged is read as into_node. To undo a merge is to
-- delete its row; nothing else changes. cause says who found out, and why.
create table graph_merge (
    org blob not null,
    group_id text not null,
    merged blob not null,
    into_node blob not null,
    cause text not null,
    created_at integer not null,
    primary key (org, group_id, merged)
) strict, without rowid;
create index graph_merge_by_into on graph_merge (org, group_id, into_node, merged);

-- Something that was said or happened, as it came. The hash of its content is there
-- once in a group. seq orders the episodes of a group, and of a session in it, by what
-- happened first; episodes that have the same are in the order of their ids. state is
-- how far its extraction is, extractor which one has been through, attempts and error
-- what came of it. message is the session's message that it repeats.
-- Statements that go by state say state <> 'done' too: the index has no others.
create table graph_episode (
    org blob not null,
    group_id text not null,
    id blob not null,
    hash blob not null,
    kind text not null,
    role text not null,
    speaker text,
    source text not null,
    content text not null,
    session_id text,
    user_id text,
    message blob,
    seq integer not null,
    occurred_at integer not null,
    ingested_at integer not null,
    state text not null,
    extractor text,
    attempts integer not null,
    error text,
    metadata text not null,
    primary key (org, group_id, id)
) strict, without rowid;
create unique index graph_episode_by_hash on graph_episode (org, group_id, hash);
create index graph_episode_by_seq on graph_episode (org, group_id, seq, id);
create index graph_episode_by_session on graph_episode (org, group_id, session_id, seq, id)
    where session_id is not null;
create index graph_episode_by_user on graph_episode (org, user_id, group_id, id)
    where user_id is not null;
create index graph_episode_by_state on graph_episode (org, group_id, state, id)
    where state <> 'done';

-- Where an episode names a node: from byte span_start to before byte span_end of its
-- content.
create table graph_mention (
    org blob not null,
    group_id text not null,
    episode blob not null,
    span_start integer not null,
    node blob not null,
    span_end integer not null,
    primary key (org, group_id, episode, span_start, node)
) strict, without rowid;
create index graph_mention_by_node on graph_mention (org, group_id, node, episode);

-- What holds of a node: of an other node, or of a literal. True in the world from
-- valid_at to before invalid_at, null for open; known here from created_at to before
-- expired_at. A fact is never changed but to be closed. hash is what tells it from
-- others, of its maker's making; confidence is 0 to 1.
create table graph_fact (
    org blob not null,
    group_id text not null,
    id blob not null,
    hash blob not null,
    subject blob not null,
    predicate text not null,
    object_node blob,
    object_text text,
    text text not null,
    valid_at integer,
    invalid_at integer,
    created_at integer not null,
    expired_at integer,
    confidence real not null,
    extractor text not null,
    extractor_version text not null,
    metadata text not null,
    primary key (org, group_id, id)
) strict, without rowid;
create unique index graph_fact_by_hash on graph_fact (org, group_id, hash);
create index graph_fact_by_subject on graph_fact (org, group_id, subject, predicate, id);
create index graph_fact_by_object on graph_fact (org, group_id, object_node, predicate, id)
    where object_node is not null;
create index graph_fact_by_predicate on graph_fact (org, group_id, predicate, id);

-- What a fact rests on: the words of an episode.
create table graph_fact_evidence (
    org blob not null,
    group_id text not null,
    fact blob not null,
    episode blob not null,
    quote text not null,
    primary key (org, group_id, fact, episode)
) strict, without rowid;
create index graph_fact_evidence_by_episode on graph_fact_evidence (org, group_id, episode, fact);
