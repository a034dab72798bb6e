"""A client that knows CloudEvents and nothing of remedyd: the SDK's AMQP binding over pika.

    client.py structured|binary URL PREFIX COUNT

Reads events from standard input, one as JSON a line, makes CloudEvents of them and publishes those in the given mode.
Then it reads COUNT events of the status exchange and prints each as {"attributes": {...}, "data": ...}, with `time`
in milliseconds since 1970. The SDK checks what it makes and what it reads; anything wrong is an exception.
"""

import json
import sys
from datetime import datetime

import pika
from cloudevents.core.bindings import amqp
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()
PATIENCE_SECONDS = 60


def made(line):
    attributes = json.loads(line)
    data = attributes.pop("data", None)
    attributes["time"] = datetime.fromisoformat(attributes["time"].replace("Z", "+00:00"))
    attributes.setdefault("datacontenttype", "application/json")
    return CloudEvent(attributes, data)


def read(properties, body):
    message = amqp.AMQPMessage({"content-type": properties.content_type}, dict(properties.headers or {}), body)
    event = amqp.from_amqp(message, FORMAT)
    attributes = dict(event.get_attributes())
    attributes["time"] = round(attributes["time"].timestamp() * 1000)
    return {"attributes": attributes, "data": event.get_data()}


def main(mode, url, prefix, count):
    to_message = {"structured": amqp.to_structured, "binary": amqp.to_binary}[mode]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, f"{prefix}.status", "#")
    for line in sys.stdin:
        event = made(line)
        message = to_message(event, FORMAT)
        headers = {**message.application_properties, "tenantid": event.get_attributes()["tenantid"]}
        channel.basic_publish(
            exchange=f"{prefix}.events",
            routing_key=f"{event.get_type()}.{event.get_attributes()['tenantid']}",
            body=message.application_data,
            properties=pika.BasicProperties(
                content_type=message.properties["content-type"], headers=headers, delivery_mode=2
            ),
            mandatory=True,
        )
    for _ in range(count):
        method, properties, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE_SECONDS))
        if method is None:
            sys.exit(f"no further event within {PATIENCE_SECONDS} s")
        print(json.dumps(read(properties, body)), flush=True)
    channel.cancel()
    connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
