"""An MCP server for tests, over its standard input and output or over HTTP, that does
what is asked of it, also what no good server does. Nothing but Python's own library.

    mcp_server.py [--dir DIR] [--silent | --exit | --deaf] [--version V | --only V]
    mcp_server.py --http [--sse] [--listen] [--bearer TOKEN] [--header NAME VALUE]
                  [--token ID SECRET] [--version V | --only V]

It answers with the version V of the protocol, or refuses all others. Over HTTP its first line says where it listens. In DIR it keeps what a call left behind.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARGS = sys.argv[1:]


def option(name, count=1):
    if name not in ARGS:
        return None
    at = ARGS.index(name) + 1
    values = ARGS[at : at + count]
    return values[0] if count == 1 else values


DIR = option("--dir") or os.getcwd()
STATE = {"description": "Says what it is told.", "more": False, "initialized": 0, "calls": 0}
OUT = threading.Lock()


def tools():
    text = {"type": "object", "properties": {"text": {"type": "string"}}}
    anything = {"type": "object"}
    read_only = {"readOnlyHint": True}
    listed = [
        {"name": "echo", "description": STATE["description"], "inputSchema": text, "annotations": read_only},
        {"name": "add", "title": "Add", "description": "Adds two numbers.", "annotations": read_only,
         "inputSchema": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}},
        {"name": "env", "description": "Says its environment.", "inputSchema": anything},
        {"name": "where", "description": "Says its directory.", "inputSchema": anything},
        {"name": "fail", "description": "Fails.", "inputSchema": anything},
        {"name": "reject", "description": "Is refused.", "inputSchema": anything},
        {"name": "hang", "description": "Never answers.", "inputSchema": anything},
        {"name": "crash", "description": "Ends the process.", "inputSchema": anything},
        {"name": "flood", "description": "Tells without end.", "inputSchema": anything},
        {"name": "garbage", "description": "Writes no messages.", "inputSchema": anything},
        {"name": "big", "description": "Gives much.", "inputSchema": anything},
        {"name": "fork", "description": "Starts others that stay.", "inputSchema": anything},
        {"name": "mark", "description": "Leaves a mark.", "inputSchema": anything},
        {"name": "describe", "description": "Changes what echo says of itself.", "inputSchema": text},
        {"name": "expire", "description": "Ends the session.", "inputSchema": anything},
        {"name": "broken", "description": "Answers over a stream that breaks.", "inputSchema": anything},
        {"name": "deafen", "description": "Ends what is listened to, and changes unheard.", "inputSchema": text},
        {"name": "revoke", "description": "Takes the token back.", "inputSchema": anything},
        {"name": "cancelled", "description": "Says how often it was told to cancel.", "inputSchema": anything},
    ]
    if STATE["more"]:
        listed.append({"name": "new", "description": "Came later.", "inputSchema": anything})
    return listed


def text_result(text, **more):
    return {"content": [{"type": "text", "text": text}], **more}


class Rejected(Exception):
    pass


class Silence(Exception):
    pass


def call(name, arguments, tell):
    STATE["calls"] += 1
    if name == "echo":
        return text_result(str(arguments.get("text", "")))
    if name == "add":
        total = arguments["a"] + arguments["b"]
        return text_result(str(total), structuredContent={"sum": total})
    if name == "env":
        return text_result(json.dumps(dict(os.environ)))
    if name == "where":
        return text_result(json.dumps({"cwd": os.getcwd(), "mode": oct(os.stat(os.getcwd()).st_mode & 0o777)}))
    if name == "fail":
        return text_result("it went wrong", isError=True)
    if name == "reject":
        raise Rejected("no such thing")
    if name == "hang":
        raise Silence()
    if name == "crash":
        sys.stderr.write("cannot go on\n")
        sys.stderr.flush()
        os._exit(3)
    if name == "flood":
        while True:
            tell({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 100}})
    if name == "garbage":
        for _ in range(1000):
            raw("this is no message")
        raise Silence()
    if name == "big":
        return text_result("x" * int(arguments["bytes"]))
    if name == "fork":
        # One that ignores what it is asked, and one of its own children.
        script = "trap '' TERM HUP INT; sleep 600 & echo $! $$ > '%s'; wait; sleep 600" % os.path.join(DIR, "pids")
        subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.exists(os.path.join(DIR, "pids")) or not open(os.path.join(DIR, "pids")).read().strip():
            time.sleep(0.01)
        return text_result(open(os.path.join(DIR, "pids")).read().strip() + " " + str(os.getpid()))
    if name == "mark":
        with open(os.path.join(DIR, "marks"), "a") as marks:
            marks.write("x")
        if arguments.get("hang"):
            raise Silence()
        while arguments.get("gate") and not os.path.exists(os.path.join(DIR, arguments["gate"])):
            time.sleep(0.01)
        if arguments.get("fail"):
            raise Rejected("not with me")
        return text_result("marked")
    if name == "describe":
        STATE["description"] = arguments["text"]
        STATE["more"] = True
        tell({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        return text_result("changed")
    if name == "expire":
        SESSIONS.clear()
        return text_result("expired")
    if name == "broken":
        with open(os.path.join(DIR, "marks"), "a") as marks:
            marks.write("x")
        return text_result("mended")
    if name == "deafen":
        STATE["description"] = arguments["text"]
        for listener in list(LISTENERS):
            listener.put(None)
        return text_result("deaf")
    if name == "revoke":
        STATE["token"] = uuid.uuid4().hex
        return text_result("revoked")
    if name == "cancelled":
        return text_result(str(STATE.get("cancelled", 0)))
    raise Rejected("unknown tool")


def answer(message, tell):
    """The answer to a message; None when there is none."""
    method, at = message.get("method"), message.get("id")
    if method == "notifications/cancelled":
        STATE["cancelled"] = STATE.get("cancelled", 0) + 1
    if at is None:
        return None
    try:
        if method == "initialize":
            STATE["initialized"] += 1
            asked, only = message["params"]["protocolVersion"], option("--only")
            if only not in (None, asked):
                error = {"code": -32602, "message": "Unsupported protocol version",
                         "data": {"supported": [only], "requested": asked}}
                return {"jsonrpc": "2.0", "id": at, "error": error}
            STATE["version"] = option("--version") or asked
            result = {
                "protocolVersion": STATE["version"],
                "capabilities": {"tools": {"listChanged": True}, "resources": {}},
                "serverInfo": {"name": "testkit", "version": "1"},
            }
        elif method == "ping":
            result = {}
        elif method == "tools/list":
            # In pages, as a server may.
            listed = tools()
            start = int((message.get("params") or {}).get("cursor") or 0)
            result = {"tools": listed[start : start + 10]}
            if start + 10 < len(listed):
                result["nextCursor"] = str(start + 10)
        elif method == "resources/list":
            result = {"resources": [{"uri": "test://one", "name": "one"}]}
        elif method == "tools/call":
            result = call(message["params"]["name"], message["params"].get("arguments") or {}, tell)
        else:
            return {"jsonrpc": "2.0", "id": at, "error": {"code": -32601, "message": "unknown method"}}
    except Silence:
        return None
    except Rejected as why:
        return {"jsonrpc": "2.0", "id": at, "error": {"code": -32602, "message": str(why)}}
    return {"jsonrpc": "2.0", "id": at, "result": result}


def raw(line):
    with OUT:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def stdio():
    if "--exit" in ARGS:
        sys.stderr.write("no licence was found\n")
        sys.exit(2)
    if "--deaf" in ARGS:
        time.sleep(3600)

    def serve(message):
        done = answer(message, lambda told: raw(json.dumps(told)))
        if done is not None:
            raw(json.dumps(done))

    raw("hello, this line is no message")
    for line in sys.stdin:
        if line.strip() and "--silent" not in ARGS:
            threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()
    if "--silent" in ARGS:
        time.sleep(3600)


SESSIONS = set()
# What is listened to, and what is left of answers that broke off, by event.
LISTENERS = []
BROKEN = {}


def tell_listeners(told):
    for listener in list(LISTENERS):
        listener.put(told)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_allowed(self):
        bearer, header = option("--bearer"), option("--header", 2)
        if bearer and self.headers.get("Authorization") != "Bearer " + bearer:
            return False
        if header and self.headers.get(header[0]) != header[1]:
            return False
        if option("--token", 2):
            return self.headers.get("Authorization") == "Bearer " + STATE.get("token", "")
        return True

    def begin_stream(self, headers=()):
        self.send_response(200)
        for name, value in [*headers, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]:
            self.send_header(name, value)
        self.end_headers()

    def event(self, told, before=""):
        data = ("%sevent: message\ndata: %s\n\n" % (before, json.dumps(told) if told else "")).encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_stream(self):
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def do_GET(self):
        if not self.is_allowed():
            return self.reply(401)
        if self.headers.get("Mcp-Session-Id") not in SESSIONS:
            return self.reply(404)
        rest = BROKEN.pop(self.headers.get("Last-Event-ID"), None)
        if rest is not None:
            self.begin_stream()
            self.event(rest)
            return self.end_stream()
        if "--listen" not in ARGS:
            return self.reply(405)
        self.begin_stream()
        told = queue.Queue()
        LISTENERS.append(told)
        while (message := told.get()) is not None:
            self.event(message)
        LISTENERS.remove(told)
        self.end_stream()

    def do_DELETE(self):
        SESSIONS.discard(self.headers.get("Mcp-Session-Id"))
        self.reply(204)

    def do_POST(self):
        body = self.body()
        if self.path == "/token":
            who, secret = option("--token", 2)
            if ("client_id=" + who) in body.decode() and ("client_secret=" + secret) in body.decode():
                STATE["token"] = uuid.uuid4().hex
                issued = {"access_token": STATE["token"], "token_type": "Bearer", "expires_in": 3600}
                return self.reply(200, json.dumps(issued).encode(), [("Content-Type", "application/json")])
            return self.reply(401)
        if self.path == "/redirect":
            return self.reply(307, b"", [("Location", "/mcp")])
        if not self.is_allowed():
            return self.reply(401)
        message = json.loads(body)
        session = self.headers.get("Mcp-Session-Id")
        headers = []
        if message.get("method") == "initialize":
            session = uuid.uuid4().hex
            SESSIONS.add(session)
            headers = [("Mcp-Session-Id", session)]
        elif session not in SESSIONS:
            return self.reply(404)
        elif self.headers.get("Mcp-Protocol-Version") != STATE["version"]:
            return self.reply(400)
        if message.get("id") is None:
            answer(message, lambda told: None)
            return self.reply(202)
        if "--sse" not in ARGS:
            done = answer(message, tell_listeners)
            if done is None:
                time.sleep(3600)
            return self.reply(200, json.dumps(done).encode(), headers + [("Content-Type", "application/json")])
        self.begin_stream(headers)
        done = answer(message, self.event)
        if done is None:
            time.sleep(3600)
        if (message.get("params") or {}).get("name") == "broken":
            # Where it goes on is said, and then the connection is gone.
            place = uuid.uuid4().hex
            BROKEN[place] = done
            self.event(None, "id: %s\nretry: 10\n" % place)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.event(done)
        self.end_stream()


def http():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    raw("http://127.0.0.1:%d" % server.server_address[1])
    server.serve_forever()


http() if "--http" in ARGS else stdio()
