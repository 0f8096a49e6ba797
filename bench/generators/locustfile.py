"""Locust's FastHttpUser as a load generator beside the others of
`cargo xtask bench-lab`: users without pauses for a time, then one line of JSON
with the requests and the CPU time of this process between start and end, the
start of Python left out.

    python locustfile.py URL plain|scenario USERS SECONDS
"""

import json
import sys
import time

import gevent
from locust import FastHttpUser, task
from locust.env import Environment


class Plain(FastHttpUser):
    @task
    def hello(self):
        self.client.get("/")


class Scenario(FastHttpUser):
    def on_start(self):
        self.number = 0

    @task
    def items(self):
        self.number += 1
        body = {"name": f"item-{self.number}", "size": 3}
        with self.client.post("/items", json=body, catch_response=True) as answer:
            made = answer.json()
            if not made["success"]:
                answer.failure("not made")
        self.client.get(f"/items/{made['id']}", name="/items/[id]")


def main():
    url, kind, users, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    environment = Environment(user_classes=[{"plain": Plain, "scenario": Scenario}[kind]], host=url)
    runner = environment.create_local_runner()
    runner.start(users, spawn_rate=users)
    while runner.user_count < users:
        gevent.sleep(0.01)
    environment.stats.reset_all()
    cpu, begun = time.process_time(), time.monotonic()
    gevent.sleep(seconds)
    total = environment.stats.total
    result = {
        "requests": total.num_requests,
        "failed": total.num_failures,
        "seconds": time.monotonic() - begun,
        "cpu_seconds": time.process_time() - cpu,
    }
    runner.quit()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
