"""pika and SQLite as one writes it first: an event, a transaction, a publication and its confirm, an ack; the next.

    pika_one_by_one.py URL ROWS

Ends on SIGTERM after the event it is at.
"""

import json
import signal
import sys

import pika

from work import INBOUND_QUEUE, STATUS_QUEUE, Rows

# Enough that the next event is always here already; it acks one by one all the same.
PREFETCH = 100


def main(url, path):
    rows = Rows(path)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=PREFETCH)
    persistent = pika.BasicProperties(delivery_mode=2, content_type="application/cloudevents+json")

    def on_event(channel, method, _properties, body):
        published = rows.apply([json.loads(body)])[0]
        # returns when the broker has confirmed it, raises if it did not take it
        channel.basic_publish("", STATUS_QUEUE, published, persistent, mandatory=True)
        channel.basic_ack(method.delivery_tag)

    signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
    channel.basic_consume(INBOUND_QUEUE, on_event)
    channel.start_consuming()
    connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
