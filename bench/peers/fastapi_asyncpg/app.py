"""The agents of Agentry, written the usual way: FastAPI, asyncpg, uvicorn.

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
