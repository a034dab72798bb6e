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
import time
from collections import defaultdict
from pathlib import Path

import pika
import redis

import work

HERE = Path(__file__).resolve().parent
# A stop may take as long as a service manager waits.
STOPS_WITHIN_SECONDS = 30
# For anything that is waited for without a measurement: a broker on shared processors.
PATIENCE_SECONDS = 180
# Between two looks at something that says nothing by itself.
LOOK_EVERY_SECONDS = 0.02


class Wrong(Exception):
    """The measurement is void: something ended, stood still or does not add up."""


def wait_until(what, is_so):
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise Wrong(f"not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(LOOK_EVERY_SECONDS)


class Process:
    """A child in a process group of its own; what it prints goes to a file."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.log = name, log
        with open(log, "ab") as out:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env=os.environ if environment is None else environment)

    def check(self):
        if self._child.poll() is not None:
            raise Wrong(f"{self.name} has ended with {self._child.returncode}:\n{self.last_lines()}")

    def stop(self):
        """In order. An exit code other than 0 is an error: what it had not finished might be missing."""
        self.check()
        self._child.terminate()
        try:
            code = self._child.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Wrong(f"{self.name} has not stopped within {STOPS_WITHIN_SECONDS} s:\n{self.last_lines()}") from None
        if code != 0:
            raise Wrong(f"{self.name} stopped with {code}:\n{self.last_lines()}")

    def kill(self):
        try:
            os.killpg(self._child.pid, 9)
        except ProcessLookupError:
            pass
        self._child.wait()

    def last_lines(self):
        return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-20:])


def audit(name, statuses, count, **books):
    """Every event has one status event, and those of a report are numbered without a gap. Gives the length of one."""
    causes, sequences, length = set(), defaultdict(set), 0
    for body in statuses:
        event = json.loads(body)
        causes.add(event["causationid"])
        sequences[event["subject"]].add(int(event["sequence"]))
        length = len(body)
    books["events with a status event"] = len(causes)
    books["numbered without a gap"] = sum(len(s) for s in sequences.values() if max(s) - min(s) + 1 == len(s))
    if set(books.values()) != {count}:
        raise Wrong(f"{name}: {count} events, but {books}")
    return length


class Broker:
    """The RabbitMQ that all but BullMQ share."""

    def __init__(self, url):
        self.url = url
        parameters = pika.URLParameters(url)
        # nobody answers heartbeats while a backlog is written by another program
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()

    def renew(self, *queues):
        for queue in queues:
            self._channel.queue_delete(queue)
            self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    def remove(self, *queues):
        for queue in queues:
            self._channel.queue_delete(queue)

    def bind(self, queue, exchange, routing_key):
        self._channel.queue_bind(queue, exchange, routing_key)

    def depth(self, queue):
        return self._channel.queue_declare(queue, passive=True).method.message_count

    def publish(self, exchange, events, routing_key=None):
        """Persistent, without confirms: who calls this counts them in the queue."""
        for event in events:
            tenant = event["tenantid"]
            properties = pika.BasicProperties(
                delivery_mode=2, content_type="application/cloudevents+json", headers={"tenantid": tenant})
            self._channel.basic_publish(exchange, routing_key or f"{event['type']}.{tenant}", work.compact(event), properties)

    def take(self, queue):
        """The bodies of its messages, which are gone from it then, for as long as more are asked for."""
        try:
            for method, _, body in self._channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE_SECONDS):
                if method is None:
                    raise Wrong(f"nothing more came out of {queue} within {PATIENCE_SECONDS} s")
                yield body
        finally:
            self._channel.cancel()


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
        processes = os.environ.get("PEERS_CELERY_PROCESSES", "4")
        return [
            sys.executable, "-m", "celery", "--app", "celery_peer", "--workdir", HERE, "worker", "--pool", "prefork",
            "--concurrency", processes, "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING",
        ]


class Remedyd(OnRabbitMq):
    key, name, goal, guess = "remedyd", "remedyd", None, 10_000
    inbound = "remedyd.p0.reports"

    def fill(self, count):
        self.broker.remove(self.inbound, "remedyd.p0.surveys", "remedyd.dead-letters")
        binary = os.environ["REMEDYD_BIN"]
        subprocess.run([binary, "topology", "apply"], check=True, env=self._environment(), stdout=subprocess.DEVNULL)
        self.broker.bind(work.STATUS_QUEUE, "remedyd.status", "#")
        # A comment is about a report that is there. These are taken by a run of their own, which is not measured.
        time_of_all = work.now()
        self.broker.publish("remedyd.events", (work.report(agent, time_of_all) for agent in range(work.AGENTS)))
        taking = self.start()
        try:
            self._await_triage()
            # what it has decided is published and acked first
            taking.stop()
        finally:
            taking.kill()
        self.broker.renew(work.STATUS_QUEUE)
        self.broker.bind(work.STATUS_QUEUE, "remedyd.status", "#")
        self.broker.publish("remedyd.events", (work.comment(n, time_of_all) for n in range(count)))

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
