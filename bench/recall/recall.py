"""How much of the evidence for a question recall finds, without any model.

Reads conversations in the shape of LoCoMo from a file of the user's (it is data under a
licence of its own, and no part of this project), stores each in a group of a running
server, asks every question and compares with plain full text: SQLite's FTS5 with the
porter stemmer, without stop words, any word.

The questions are not looked at before everything is stored. Mean evidence recall at 5,
10, 20 and 50, and nDCG at 10, for each category; category 5 (questions that have no
answer) stands apart from the mean.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import re
import sqlite3
import sys
import time
import urllib.parse
from datetime import datetime, timezone

AT = (5, 10, 20, 50)
STOP_WORDS = set(
    """a about an and any are as at be been but by can could did do does for from had has have
    he her his how i if in is it its me my of on or our she so that the their them then there
    these they this those to us was we were what when where which who whom whose why will with
    would you your""".split()
)


class Api:
    """A keep-alive connection to the server."""

    def __init__(self, url, key):
        self.address = urllib.parse.urlsplit(url)
        self.headers = {"Content-Type": "application/json", "X-API-Key": key}
        self.connection = None

    def call(self, method, path, body=None):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port)
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, self.headers)
        reply = self.connection.getresponse()
        answer = reply.read()
        if reply.status >= 400:
            raise RuntimeError(f"{method} {path}: {reply.status} {answer[:300]!r}")
        return json.loads(answer)


def moment(text):
    """`1:56 pm on 8 May, 2023` as RFC 3339; the data says no zone, so UTC."""
    clean = " ".join(text.replace(",", " ").split())
    for form in ("%I:%M %p on %d %B %Y", "%d %B %Y"):
        try:
            return datetime.strptime(clean, form).replace(tzinfo=timezone.utc)
        except ValueError:
            pass
    raise ValueError(f"not a date of a session: {text!r}")


def turns_of(conversation):
    """(id, session, moment, speaker, text) of every turn, in order."""
    numbers = sorted(
        int(match[1]) for key in conversation if (match := re.fullmatch(r"session_(\d+)", key))
    )
    for number in numbers:
        begun = moment(conversation[f"session_{number}_date_time"])
        for nth, turn in enumerate(conversation[f"session_{number}"]):
            text = turn["text"]
            if turn.get("blip_caption"):
                text += f" [photo: {turn['blip_caption']}]"
            at = begun.timestamp() + nth
            yield turn["dia_id"], number, at, turn["speaker"], text


def evidence_of(question, known):
    """The turns that a question rests on, read leniently."""
    found = []
    for entry in question.get("evidence") or []:
        for part in re.split(r"[;,\s]+", str(entry)):
            part = part.replace("D:", "D")
            if part in known and part not in found:
                found.append(part)
    return found


class Plain:
    """Full text as anybody would set it up."""

    def __init__(self):
        self.database = sqlite3.connect(":memory:")
        self.database.execute("create virtual table turn using fts5(id unindexed, text, tokenize='porter unicode61')")

    def store(self, turns):
        rows = [(ident, text) for ident, _, _, _, text in turns]
        self.database.executemany("insert into turn values (?, ?)", rows)

    def ask(self, question):
        words = re.findall(r"\w+", question.lower())
        terms = [word for word in words if word not in STOP_WORDS] or words
        query = " OR ".join(f'"{term}"' for term in terms)
        sql = "select id from turn where turn match ? order by rank limit ?"
        return [row[0] for row in self.database.execute(sql, (query, max(AT)))]


class Ours:
    """The server, asked over HTTP."""

    def __init__(self, url, key, group):
        self.api = Api(url, key)
        self.group = group
        self.ids = {}

    def store(self, turns):
        for ident, session, at, speaker, text in turns:
            taken = self.api.call("POST", "/api/v1/graph/episodes", {
                "group_id": self.group, "content": text, "speaker": speaker,
                "session_id": f"s{session}", "source": ident,
                "occurred_at": datetime.fromtimestamp(at, timezone.utc).isoformat().replace("+00:00", "Z"),
            })
            self.ids[taken["id"]] = ident
        path = f"/api/v1/graph/episodes?state=pending&limit=1&group_id={self.group}"
        while self.api.call("GET", path)["items"]:
            time.sleep(0.05)

    def ask(self, question):
        found = self.api.call("POST", "/api/v1/graph/search", {
            "group_id": self.group, "query": question, "limit": max(AT), "facts": False,
        })
        return [self.ids[hit["id"]] for hit in found["hits"]]


def scores(found, evidence):
    recall = [sum(ident in found[:at] for ident in evidence) / len(evidence) for at in AT]
    gains = [1 / math.log2(nth + 2) for nth, ident in enumerate(found[:10]) if ident in evidence]
    best = sum(1 / math.log2(nth + 2) for nth in range(min(len(evidence), 10)))
    return recall + [sum(gains) / best]


def table(name, rows):
    print(f"\n{name}\n{'category':>10} {'n':>5} " + " ".join(f"R@{at:<4}" for at in AT) + " nDCG@10")
    means = {}
    for category in sorted({category for category, _ in rows}):
        some = [row for it, row in rows if it == category]
        means[category] = (len(some), [sum(column) / len(some) for column in zip(*some)])
    most = [row for category, row in rows if category != 5]
    means["1-4"] = (len(most), [sum(column) / len(most) for column in zip(*most)])
    for category, (n, mean) in means.items():
        print(f"{category!s:>10} {n:>5} " + " ".join(f"{value:.4f}" for value in mean))
    return {str(category): {"n": n, "recall": mean[:-1], "ndcg": mean[-1]} for category, (n, mean) in means.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--key", required=True)
    arguments.add_argument("--out")
    given = arguments.parse_args()
    with open(given.data, encoding="utf-8") as file:
        samples = json.load(file)
    run = f"recall-{time.time_ns()}"

    def one(sample):
        # Of a conversation, everything is stored before a question is read.
        turns = list(turns_of(sample["conversation"]))
        plain, ours = Plain(), Ours(given.url, given.key, f"{run}-{sample['sample_id']}")
        plain.store(turns)
        ours.store(turns)
        known = {turn[0] for turn in turns}
        rows, took = ([], []), []
        for question in sample["qa"]:
            evidence = evidence_of(question, known)
            if not evidence:
                continue
            category = int(question["category"])
            rows[0].append((category, scores(plain.ask(question["question"]), evidence)))
            begun = time.perf_counter()
            found = ours.ask(question["question"])
            took.append(time.perf_counter() - begun)
            rows[1].append((category, scores(found, evidence)))
        return len(turns), rows, took

    # SQLite's connection stays with its thread: a conversation is a thread's whole work.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(one, samples))
    took = sorted(second for _, _, some in done for second in some)
    plain = table("plain FTS5 (porter, stop words, any word)", [row for _, rows, _ in done for row in rows[0]])
    ours = table("ours", [row for _, rows, _ in done for row in rows[1]])
    turns = sum(count for count, _, _ in done)
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] * 1_000
    print(f"\n{turns} turns, {len(took)} questions; a search took {at(0.5):.1f} ms (p50), {at(0.95):.1f} ms (p95)")
    if given.out:
        with open(given.out, "w", encoding="utf-8") as file:
            json.dump({"plain": plain, "ours": ours, "turns": turns, "questions": len(took)}, file, indent=2)
    floors = dict(zip(AT, (0.70, 0.78, 0.84)))
    below = [at for at, value in zip(AT, ours["1-4"]["recall"]) if value < floors.get(at, 0)]
    print("every floor holds" if not below else f"below the floor at {below}")
    sys.exit(1 if below else 0)


if __name__ == "__main__":
    main()
