#!/usr/bin/python3
"""Publishes what it is told on standard input, as a client that is not ours: pika (Debian: python3-pika).

    publish.py URL

A line in is one message, as JSON: {"exchange", "routing_key", "content_type", "headers", "body_hex"}.
A line out for each: "confirmed" once the broker has it in a queue, or what went wrong.
Messages are persistent and mandatory. It ends with its input.
"""

import json
import sys

import pika
import pika.exceptions


def main(url):
    parameters = pika.URLParameters(url)
    # nobody answers heartbeats while this waits for its next line
    parameters.heartbeat = 0
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    print("connected", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        properties = pika.BasicProperties(
            content_type=message["content_type"],
            headers=message["headers"],
            delivery_mode=2,
        )
        try:
            channel.basic_publish(
                exchange=message["exchange"],
                routing_key=message["routing_key"],
                body=bytes.fromhex(message["body_hex"]),
                properties=properties,
                mandatory=True,
            )
        except pika.exceptions.AMQPError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            print("confirmed", flush=True)
    connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
