-- MCP servers with their secrets and catalogues, and the calls of tools in runs.

create table mcp_server (
    org bytea not null,
    id bytea not null,
    name text collate "C" not null,
    status text collate "C" not null,
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
create unique index mcp_server_name on mcp_server (org, name);

create table mcp_state (
    org bytea not null,
    id bytea not null,
    secrets bytea,
    catalogue text collate "C",
    revision bigint not null,
    epoch bigint not null,
    primary key (org, id)
);

create table run_tool (
    org bytea not null,
    run bytea not null,
    position bigint not null,
    attempt bigint not null,
    effects bigint not null,
    document text collate "C" not null,
    primary key (org, run, position)
);
