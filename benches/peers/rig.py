"""What every contestant is run with: its process, the broker they share, and the audit of what it has published.

Never here: anything that only one contestant needs.
"""

import json
import os
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pika
import pika.exceptions

import work

# A stop may take as long as a service manager waits.
STOPS_WITHIN_SECONDS = 30
# For anything that is waited for without a measurement: a broker on shared processors.
PATIENCE_SECONDS = 180
# Between two looks at something that says nothing by itself.
LOOK_EVERY_SECONDS = 0.02
# AMQP 0-9-1, 1.5.2.5
INTERNAL_ERROR = 541


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


class Endless(Process):
    """One that knows no order in which to stop."""

    def stop(self):
        self.check()
        self.kill()


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
        self._connect()

    def _connect(self):
        parameters = pika.URLParameters(self.url)
        # nobody answers heartbeats while a backlog is written by another program
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()

    def renew(self, *queues):
        self.remove(*queues)
        for queue in queues:
            self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    def remove(self, *queues):
        for queue in queues:
            try:
                self._channel.queue_delete(queue)
            except pika.exceptions.ConnectionClosedByBroker as closed:
                # RabbitMQ 3.10 sometimes ends the connection at the deletion of a quorum queue; a second one finds it gone
                if closed.reply_code != INTERNAL_ERROR:
                    raise
                self._connect()
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
