"""The contestants: how each one's backlog is prepared, how it is started, how far it is, and whether its books balance.

Each measurement begins with queues and stores of its own that have never been used. Never here: a clock.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import redis

import work
from rig import Endless, Process, Wrong, audit, wait_until

HERE = Path(__file__).resolve().parent


class OnRabbitMq:
    """What all contestants at that broker have in common. Their state is a file of SQLite, unless they say otherwise."""

    inbound, dead_letters = work.INBOUND_QUEUE, None

    def __init__(self, broker, scratch):
        self.broker, self.scratch = broker, scratch
        self.number = itertools.count(1)
        self.outbound_bytes = None

    def prepare(self, count):
        self.directory = self.scratch / f"{self.key}-{next(self.number)}"
        self.directory.mkdir()
        self.rows, self.log = self.directory / "rows.sqlite", self.directory / "log"
        self.broker.renew(work.STATUS_QUEUE)
        self.fill(count)
        wait_until(f"{count} events in the queue", lambda: self.broker.depth(self.inbound) == count)

    def fill(self, count):
        self.broker.renew(self.inbound)
        time_of_all = work.now()
        self.broker.publish("", (work.comment(n, time_of_all) for n in range(count)), self.inbound)

    def start(self):
        environment = {**os.environ, "PEERS_AMQP_URL": self.broker.url, "PEERS_ROWS": str(self.rows)}
        return Process(self.name, self.command(), self.log, environment)

    def published(self):
        return self.broker.depth(work.STATUS_QUEUE)

    def finish(self, count):
        """After its end: nothing is left unacked, every event has its status event and has changed a row."""
        wait_until("every event acked", lambda: self.broker.depth(self.inbound) == 0)
        books = {"published": self.published(), **self.rows_balance()}
        statuses = itertools.islice(self.broker.take(work.STATUS_QUEUE), count)
        self.outbound_bytes = audit(self.name, statuses, count, **books)

    def rows_balance(self):
        return {"in rows": work.events_in_rows(self.rows)}

    def clean_up(self):
        self.broker.remove(work.STATUS_QUEUE, self.inbound)
        shutil.rmtree(self.directory)


class PikaOneByOne(OnRabbitMq):
    key, name, goal, guess = "pika-one-by-one", "pika+SQLite, one by one", 15, 600

    def command(self):
        return [sys.executable, HERE / "pika_one_by_one.py", self.broker.url, self.rows]


class PikaBatched(OnRabbitMq):
    key, name, goal, guess = "pika-batched", "pika+SQLite, batches", None, 3_000

    def command(self):
        return [sys.executable, HERE / "pika_batched.py", self.broker.url, self.rows]


class Celery(OnRabbitMq):
    key, name, goal, guess = "celery", "Celery, prefork", 20, 500

    def fill(self, count):
        self.broker.renew(self.inbound)
        fill = [sys.executable, HERE / "celery_peer.py", str(count)]
        subprocess.run(fill, check=True, env={**os.environ, "PEERS_AMQP_URL": self.broker.url})

    def command(self):
        processes = os.environ.get("PEERS_CELERY_PROCESSES", "8")
        return [
            sys.executable, "-m", "celery", "--app", "celery_peer", "--workdir", HERE, "worker", "--pool", "prefork",
            "--concurrency", processes, "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING",
        ]


class Remedyd(OnRabbitMq):
    key, name, goal, guess = "remedyd", "remedyd", None, 10_000
    prefix = "remedyd"

    @property
    def inbound(self):
        return f"{self.prefix}.p0.reports"

    def _lay_out(self):
        self.broker.remove(self.inbound, f"{self.prefix}.p0.surveys", f"{self.prefix}.dead-letters")
        apply = [os.environ["REMEDYD_BIN"], "topology", "apply", "--prefix", self.prefix]
        subprocess.run(apply, check=True, env=self._environment(), stdout=subprocess.DEVNULL)
        self._bind()

    def _bind(self):
        self.broker.bind(work.STATUS_QUEUE, f"{self.prefix}.status", "#")

    def fill(self, count):
        self._lay_out()
        # A comment is about a report that is there. These are taken by a run of their own, which is not measured.
        time_of_all = work.now()
        self.broker.publish(f"{self.prefix}.events", (work.report(agent, time_of_all) for agent in range(work.AGENTS)))
        taking = self.start()
        try:
            self._await_triage()
            # what it has decided is published and acked first
            taking.stop()
        finally:
            taking.kill()
        self.broker.renew(work.STATUS_QUEUE)
        self._bind()
        self._publish_comments(count, time_of_all)

    def _publish_comments(self, count, time_of_all):
        self.broker.publish(f"{self.prefix}.events", (work.comment(n, time_of_all) for n in range(count)))

    def _await_triage(self):
        triaged = set()
        for body in self.broker.take(work.STATUS_QUEUE):
            event = json.loads(body)
            if event["type"] == "incident_report.triaged":
                triaged.add(event["subject"])
            if len(triaged) == work.AGENTS:
                return

    def start(self):
        command = [os.environ["REMEDYD_BIN"], "serve", "--store", self.directory / "store"]
        return Process(self.name, command, self.log, self._environment())

    def _environment(self):
        # no ops port: another service on this machine may have it
        ours = {key: value for key, value in os.environ.items() if not key.startswith("REMEDYD_")}
        return {**ours, "REMEDYD_AMQP_URL": self.broker.url, "REMEDYD_OPS__LISTEN": ""}

    def rows_balance(self):
        # its store has a form of its own; that the numbers have no gap says what the rows would
        return {}


class BareRelay(Remedyd):
    """No peer: what this broker and the service's own client allow at all. It keeps nothing, and reads nothing of an event."""

    key, name = "relay", "bare relay, no state"
    # it does not run beside an installation in use
    prefix = "remedyd-load"

    def __init__(self, broker, scratch, ours):
        super().__init__(broker, scratch)
        self.ours = ours

    def fill(self, count):
        self._lay_out()
        self._publish_comments(count, work.now())

    def start(self):
        self.outbound_bytes = self.ours.outbound_bytes
        command = [os.environ["REMEDYD_BIN"], "load", "--prefix", self.prefix, "--relay", "1", str(self.outbound_bytes)]
        return Endless(self.name, command, self.log, self._environment())

    def finish(self, count):
        """What it publishes says nothing of what it was for."""
        if self.published() != count:
            raise Wrong(f"{self.name}: {count} events, but {self.published()} published")


class BullMq:
    """On a Redis of its own, which runs only while it is measured."""

    key, name, goal, guess = "bullmq", "BullMQ, Redis", 2.5, 4_000

    def __init__(self, scratch):
        self.scratch = scratch
        self.number = itertools.count(1)
        self.outbound_bytes = None
        self._server = None

    def prepare(self, count):
        self.directory = self.scratch / f"{self.key}-{next(self.number)}"
        self.directory.mkdir()
        self.log = self.directory / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # every answer after a sync; the file is not rewritten during the seconds that are measured
        self._server = Process("redis-server", [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0",
        ], self.directory / "redis.log")
        self._redis = redis.Redis(port=self.port, decode_responses=True)
        wait_until("Redis answers", self._answers)
        time_of_all = work.now()
        lines = b"\n".join(work.compact(work.comment(n, time_of_all)) for n in range(count))
        subprocess.run(["node", self._program(), "fill", str(self.port), str(count)], input=lines, check=True)

    def _answers(self):
        self._server.check()
        try:
            return self._redis.ping()
        except redis.ConnectionError:
            return False

    def _program(self):
        # a copy: node looks for packages beside the program
        return Path(os.environ["PEERS_NODE"]) / "bullmq.mjs"

    def start(self):
        return Process(self.name, ["node", self._program(), "work", str(self.port)], self.log)

    def published(self):
        return self._redis.xlen("status")

    def finish(self, count):
        left = self._redis.llen("bull:events:wait") + self._redis.llen("bull:events:active")
        in_rows = sum(int(self._redis.hget(key, "sequence")) for key in self._redis.scan_iter("agent:*", count=1_000))
        books = {"published": self.published(), "in rows": in_rows, "acked": count - left}
        self.outbound_bytes = audit(self.name, self._statuses(), count, **books)

    def _statuses(self):
        start = "-"
        while entries := self._redis.xrange("status", min=start, count=1_000):
            yield from (entry["event"] for _, entry in entries)
            start = f"({entries[-1][0]}"

    def clean_up(self):
        if self._server is not None:
            self._server.kill()
            self._server = None
            shutil.rmtree(self.directory)
