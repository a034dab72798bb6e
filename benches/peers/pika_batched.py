"""pika and SQLite with care: a transaction for many events, confirms awaited while the next batch is read, acks in bulk.

    pika_batched.py URL ROWS

pika's asynchronous connection: its blocking one waits for each confirm alone. Ends on SIGTERM.
"""

import json
import signal
import sys

import pika

from work import INBOUND_QUEUE, STATUS_QUEUE, Rows

# As many as remedyd decides into one commit by default.
BATCH = 256
# The next batches arrive while the last ones wait for their confirms.
PREFETCH = 4 * BATCH
# How long a batch that is not full waits for more.
LINGER_SECONDS = 0.005
# Settled events that are acked by one frame, unless nothing else is under way.
ACK_EVERY = 64


class Relay:
    def __init__(self, url, path):
        self._rows = Rows(path)
        self._waiting = []
        self._timer = None
        self._published = 0
        # number of the publication: delivery tag of its event, in order
        self._unconfirmed = {}
        self._last_tag = 0
        self._acked = 0
        self._persistent = pika.BasicProperties(delivery_mode=2, content_type="application/cloudevents+json")
        self._connection = pika.SelectConnection(
            pika.URLParameters(url), on_open_callback=self._connected, on_close_callback=self._closed)

    def run(self):
        # pika's loop, asked from a signal, looks again at once
        close = self._connection.close
        signal.signal(signal.SIGTERM, lambda *_: self._connection.ioloop.add_callback_threadsafe(close))
        self._connection.ioloop.start()

    def _closed(self, connection, _reason):
        connection.ioloop.stop()

    def _connected(self, connection):
        connection.channel(on_open_callback=self._opened)

    def _opened(self, channel):
        self._channel = channel
        channel.confirm_delivery(self._on_confirm)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(INBOUND_QUEUE, self._on_event)

    def _on_event(self, _channel, method, _properties, body):
        self._waiting.append((method.delivery_tag, body))
        if len(self._waiting) >= BATCH:
            self._flush()
        elif self._timer is None:
            self._timer = self._connection.ioloop.call_later(LINGER_SECONDS, self._flush)

    def _flush(self):
        if self._timer is not None:
            self._connection.ioloop.remove_timeout(self._timer)
            self._timer = None
        batch, self._waiting = self._waiting, []
        for (tag, _), published in zip(batch, self._rows.apply([json.loads(body) for _, body in batch])):
            self._published += 1
            self._unconfirmed[self._published] = self._last_tag = tag
            self._channel.basic_publish("", STATUS_QUEUE, published, self._persistent)

    def _on_confirm(self, frame):
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            sys.exit(f"the broker did not take a message: {frame.method}")
        number = frame.method.delivery_tag
        if frame.method.multiple:
            while self._unconfirmed and next(iter(self._unconfirmed)) <= number:
                del self._unconfirmed[next(iter(self._unconfirmed))]
        else:
            del self._unconfirmed[number]
        first_open = next(iter(self._unconfirmed.values()), None)
        settled = self._last_tag if first_open is None else first_open - 1
        if settled > self._acked and (first_open is None or settled - self._acked >= ACK_EVERY):
            self._channel.basic_ack(settled, multiple=True)
            self._acked = settled


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Relay(sys.argv[1], sys.argv[2]).run()
