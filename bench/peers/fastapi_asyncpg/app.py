"""The resources of Agentry, written the usual way: FastAPI, asyncpg, uvicorn.

A peer for `make bench`, not a product. It does the same work for the same
answer: checks an API key against a table, validates, writes one row durably
(PostgreSQL commits with fsync), reads one row, answers every field. Where there
was a choice it takes the faster one that people do use: a pool, prepared
statements (asyncpg keeps them), uvloop, httptools, answers serialised by
pydantic alone (a return model would be validated once more), and keys
remembered for KEY_SECONDS so that most requests need one statement.

Configuration: PEER_DATABASE (postgres URL), PEER_KEY (the key to put into the
table at the start).
"""

import hashlib
import json
import os
import time
import uuid
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field

KEY_SECONDS = 5.0
POOL_CONNECTIONS = 16

SCHEMA = """
create table if not exists api_key (hash bytea primary key, org uuid not null);
create table if not exists agent (
    org uuid not null, id uuid not null, name text not null, description text not null,
    agent_type text not null, status text not null, model text not null, instructions text not null,
    tools jsonb not null, memory jsonb not null, configuration jsonb not null,
    metadata jsonb not null, resource_limits jsonb not null, did text not null,
    version bigint not null, created_at timestamptz not null, updated_at timestamptz not null,
    primary key (org, id));
create table if not exists app_user (
    org uuid not null, id uuid not null, user_id text, email text, phone_number text, name text,
    user_data jsonb not null, metadata jsonb not null, version bigint not null,
    created_at timestamptz not null, updated_at timestamptz not null, primary key (org, id),
    unique (org, user_id), unique (org, email), unique (org, phone_number));
create table if not exists memory (
    org uuid not null, id uuid not null, name text, content text not null,
    description text not null, user_id text, agent_id text, session_id text,
    read_mode text not null, access text not null, metadata jsonb not null,
    version bigint not null, created_at timestamptz not null, updated_at timestamptz not null,
    words tsvector generated always as (to_tsvector('english', content)) stored,
    primary key (org, id));
create index if not exists memory_words on memory using gin (words);
create table if not exists goal (
    org uuid not null, id uuid not null, agent_id uuid, description text not null,
    success_criteria jsonb not null, priority bigint not null, status text not null,
    goal_type text, parent_goal_id uuid, constraints jsonb not null,
    decomposition_strategy text, metadata jsonb not null, version bigint not null,
    created_at timestamptz not null, updated_at timestamptz not null, primary key (org, id));
create table if not exists task (
    org uuid not null, id uuid not null, plan_id text, agent_id uuid, name text not null,
    description text not null, task_type text, input_data jsonb, output_data jsonb,
    depends_on jsonb not null, status text not null, version bigint not null,
    created_at timestamptz not null, updated_at timestamptz not null, primary key (org, id));
create table if not exists session (
    org uuid not null, id uuid not null, name text, user_id text, origin text,
    status text not null, metadata jsonb not null, version bigint not null,
    created_at timestamptz not null, updated_at timestamptz not null, primary key (org, id));
create table if not exists message (
    org uuid not null, session uuid not null, id uuid not null, run uuid, role text not null,
    content text not null, created_at timestamptz not null,
    words tsvector generated always as (to_tsvector('english', content)) stored,
    primary key (org, session, id));
create index if not exists message_words on message using gin (words);
create table if not exists run (
    org uuid not null, id uuid not null, agent uuid not null, session uuid not null,
    status text not null, input text not null, reply text,
    created_at timestamptz not null, finished_at timestamptz, primary key (org, id));
"""
COLUMNS = (
    "id, name, description, agent_type, status, model, instructions, tools, memory, "
    "configuration, metadata, resource_limits, did, version, created_at, updated_at"
)
INSERT = f"insert into agent (org, {COLUMNS}) values ({', '.join(f'${n}' for n in range(1, 18))})"
SELECT = f"select {COLUMNS} from agent where org = $1 and id = $2"


class Memory(BaseModel):
    recall: bool = True
    remember: bool = True
    limit: int = Field(default=5, ge=1, le=50)


class AgentIn(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    agent_type: str = "general"
    status: str = "created"
    model: str = "builtin/recall"
    instructions: str = ""
    tools: list[Any] = []
    memory: Memory = Memory()
    configuration: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    resource_limits: dict[str, Any] = {}


class Agent(AgentIn):
    id: uuid.UUID
    did: str
    version: int
    created_at: datetime
    updated_at: datetime


class UserIn(BaseModel):
    user_id: str | None = None
    email: str | None = None
    phone_number: str | None = None
    name: str | None = None
    user_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class MemoryIn(BaseModel):
    name: str | None = None
    content: str = Field(min_length=1, max_length=100_000)
    description: str = ""
    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    read_mode: str = "auto"
    access: str = "private"
    metadata: dict[str, Any] = {}


class GoalIn(BaseModel):
    agent_id: uuid.UUID | None = None
    description: str = Field(min_length=1, max_length=10_000)
    success_criteria: list[Any] = []
    priority: int = Field(default=5, ge=1, le=10)
    status: str = "pending"
    goal_type: str | None = None
    parent_goal_id: uuid.UUID | None = None
    constraints: dict[str, Any] = {}
    decomposition_strategy: str | None = None
    metadata: dict[str, Any] = {}


class TaskIn(BaseModel):
    plan_id: str | None = None
    agent_id: uuid.UUID | None = None
    name: str = ""
    description: str = Field(min_length=1, max_length=10_000)
    task_type: str | None = None
    input_data: Any = None
    output_data: Any = None
    depends_on: list[uuid.UUID] = []
    status: str = "pending"


class SessionIn(BaseModel):
    name: str | None = None
    user_id: str | None = None
    origin: str | None = None
    status: str = "active"
    metadata: dict[str, Any] = {}


class Head(BaseModel):
    id: uuid.UUID
    version: int
    created_at: datetime
    updated_at: datetime


class User(UserIn, Head):
    pass


class MemoryItem(MemoryIn, Head):
    pass


class Goal(GoalIn, Head):
    pass


class Task(TaskIn, Head):
    pass


class Session(SessionIn, Head):
    pass


class RunIn(BaseModel):
    message: str = Field(min_length=1, max_length=200_000)


class Run(BaseModel):
    id: uuid.UUID
    session_id: uuid.UUID
    status: str
    success: bool
    message: str
    created_at: datetime
    finished_at: datetime


async def prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )


@asynccontextmanager
async def lifespan(app: FastAPI):
    url = os.environ["PEER_DATABASE"]
    async with asyncpg.create_pool(
        url, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS, init=prepare
    ) as pool:
        async with pool.acquire() as connection, connection.transaction():
            # Several workers start at once.
            await connection.execute("select pg_advisory_xact_lock(8881)")
            await connection.execute(SCHEMA)
            await connection.execute(
                "insert into api_key values ($1, $2) on conflict do nothing",
                hashlib.sha256(os.environ["PEER_KEY"].encode()).digest(),
                uuid.UUID(int=1),
            )
            await connection.execute(
                "insert into agent (org, " + COLUMNS + ") values ($1, $2, 'simple', '', 'general', "
                "'created', 'none', '', '[]', '{}', '{}', '{}', '{}', 'did:agent:simple:0', 1, "
                "now(), now()) on conflict do nothing",
                uuid.UUID(int=1),
                uuid.UUID(int=2),
            )
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)
keys: dict[bytes, tuple[float, uuid.UUID]] = {}


async def organisation(request: Request) -> uuid.UUID:
    x_api_key = request.headers.get("x-api-key", "")
    hashed = hashlib.sha256(x_api_key.encode()).digest()
    now = time.monotonic()
    known = keys.get(hashed)
    if known and known[0] > now:
        return known[1]
    org = await request.app.state.pool.fetchval("select org from api_key where hash = $1", hashed)
    if org is None:
        raise HTTPException(401, "a valid API key is needed")
    keys[hashed] = (now + KEY_SECONDS, org)
    return org


Organisation = Annotated[uuid.UUID, Depends(organisation)]


@app.post("/api/v1/agents", status_code=201)
async def agent_create(
    given: AgentIn, org: Organisation, request: Request
) -> Response:
    now = datetime.now(timezone.utc)
    id = uuid.uuid4()
    did = f"did:agent:{given.name.lower()}:{id.hex[-8:]}"
    agent = Agent(
        **given.model_dump(), id=id, did=did, version=1, created_at=now, updated_at=now
    )
    await request.app.state.pool.execute(
        INSERT, org, agent.id, agent.name, agent.description, agent.agent_type, agent.status,
        agent.model, agent.instructions, agent.tools, agent.memory.model_dump(),
        agent.configuration, agent.metadata, agent.resource_limits, agent.did, agent.version,
        agent.created_at, agent.updated_at,
    )
    location = {"location": f"/api/v1/agents/{agent.id}"}
    return Response(agent.model_dump_json(), 201, location, "application/json")


@app.get("/api/v1/agents/{id}")
async def agent_get(id: uuid.UUID, org: Organisation, request: Request) -> Response:
    row = await request.app.state.pool.fetchrow(SELECT, org, id)
    if row is None:
        raise HTTPException(404, "there is no such agent")
    agent = Agent.model_validate(dict(row))
    return Response(agent.model_dump_json(), media_type="application/json")


@app.get("/api/v1/agent/list")
async def agent_summaries(org: Organisation, request: Request) -> Response:
    rows = await request.app.state.pool.fetch(
        "select id, name, description from agent where org = $1 order by created_at desc "
        "limit 1000",
        org,
    )
    items = [{"id": str(row[0]), "name": row[1], "description": row[2]} for row in rows]
    return Response(json.dumps(items), media_type="application/json")


async def store(table: str, model: type[Head], given: BaseModel, org: uuid.UUID, pool) -> Response:
    """Stores a new row of a table whose columns are the model's fields."""
    now = datetime.now(timezone.utc)
    item = model(**given.model_dump(), id=uuid.uuid4(), version=1, created_at=now, updated_at=now)
    values = item.model_dump()
    if "depends_on" in values:
        values["depends_on"] = [str(id) for id in values["depends_on"]]
    places = ", ".join(f"${n}" for n in range(2, len(values) + 2))
    statement = f"insert into {table} (org, {', '.join(values)}) values ($1, {places})"
    await pool.execute(statement, org, *values.values())
    return Response(item.model_dump_json(), 201, media_type="application/json")


@app.post("/api/v1/users", status_code=201)
async def user_create(given: UserIn, org: Organisation, request: Request) -> Response:
    return await store("app_user", User, given, org, request.app.state.pool)


@app.post("/api/v1/memories", status_code=201)
async def memory_create(given: MemoryIn, org: Organisation, request: Request) -> Response:
    return await store("memory", MemoryItem, given, org, request.app.state.pool)


@app.post("/api/v1/goals", status_code=201)
async def goal_create(given: GoalIn, org: Organisation, request: Request) -> Response:
    return await store("goal", Goal, given, org, request.app.state.pool)


@app.post("/api/v1/tasks", status_code=201)
async def task_create(given: TaskIn, org: Organisation, request: Request) -> Response:
    given.name = given.name or given.description[:100]
    return await store("task", Task, given, org, request.app.state.pool)


@app.post("/api/v1/sessions", status_code=201)
async def session_create(given: SessionIn, org: Organisation, request: Request) -> Response:
    return await store("session", Session, given, org, request.app.state.pool)


@app.get("/api/v1/sessions")
async def session_list(org: Organisation, request: Request, limit: int = 50) -> Response:
    pool = request.app.state.pool
    rows = await pool.fetch(
        "select id, name, user_id, origin, status, metadata, version, created_at, updated_at "
        "from session where org = $1 order by created_at desc limit $2",
        org,
        limit,
    )
    items = [Session.model_validate(dict(row)).model_dump(mode="json") for row in rows]
    return Response(json.dumps({"items": items, "limit": limit}), media_type="application/json")


@app.post("/api/v1/agent/{name}/run")
async def run_create(name: str, given: RunIn, org: Organisation, request: Request) -> Response:
    """A run without a model: stored as begun, recall asked, stored as finished."""
    pool = request.app.state.pool
    agent = await pool.fetchval("select id from agent where org = $1 and name = $2 limit 1", org, name)
    if agent is None:
        raise HTTPException(404, "there is no such agent")
    now = datetime.now(timezone.utc)
    run, session = uuid.uuid4(), uuid.uuid4()
    async with pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute(
                "insert into session values ($1, $2, null, null, null, 'active', '{}', 1, $3, $3)",
                org, session, now,
            )
            await connection.execute(
                "insert into run values ($1, $2, $3, $4, 'running', $5, null, $6, null)",
                org, run, agent, session, given.message, now,
            )
            await connection.execute(
                "insert into message values ($1, $2, $3, $4, 'user', $5, $6)",
                org, session, uuid.uuid4(), run, given.message, now,
            )
        found = await connection.fetchval(
            "select content from message where org = $1 and session = $2 and run <> $3 "
            "and words @@ plainto_tsquery('english', $4) limit 1",
            org, session, run, given.message,
        )
        reply = found or "I found nothing about that."
        ended = datetime.now(timezone.utc)
        async with connection.transaction():
            await connection.execute(
                "update run set status = 'succeeded', reply = $3, finished_at = $4 "
                "where org = $1 and id = $2",
                org, run, reply, ended,
            )
            await connection.execute(
                "insert into message values ($1, $2, $3, $4, 'assistant', $5, $6)",
                org, session, uuid.uuid4(), run, reply, ended,
            )
    answer = Run(
        id=run, session_id=session, status="succeeded", success=True, message=reply,
        created_at=now, finished_at=ended,
    )
    return Response(answer.model_dump_json(), media_type="application/json")
