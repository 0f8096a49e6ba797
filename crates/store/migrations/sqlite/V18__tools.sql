-- MCP servers with their secrets and catalogues, and the calls of tools in runs.

create table mcp_server (
    org blob not null,
    id blob not null,
    name text not null,
    status text not null,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
create unique index mcp_server_name on mcp_server (org, name);

create table mcp_state (
    org blob not null,
    id blob not null,
    secrets blob,
    catalogue text,
    revision integer not null,
    epoch integer not null,
    primary key (org, id)
) strict, without rowid;

create table run_tool (
    org blob not null,
    run blob not null,
    position integer not null,
    attempt integer not null,
    effects integer not null,
    document text not null,
    primary key (org, run, position)
) strict, without rowid;
