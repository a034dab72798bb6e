"""Celery: a task for each event, on a quorum queue, with late acks. An application for `celery --app celery_peer`.

    celery_peer.py COUNT    puts so many tasks into the queue

The environment says where: PEERS_AMQP_URL, PEERS_ROWS (the worker only).
"""

import os
import sys

from celery import Celery
from kombu import Queue

from work import INBOUND_QUEUE, STATUS_QUEUE, Rows, comment, now

# Only what a task publishes is confirmed: the tasks themselves are counted in the queue once they are there.
FILLING = __name__ == "__main__"

app = Celery("celery_peer", broker=os.environ["PEERS_AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue=INBOUND_QUEUE,
    task_queues=[Queue(INBOUND_QUEUE, routing_key=INBOUND_QUEUE, queue_arguments={"x-queue-type": "quorum"})],
    # no task waits for the network while a process is free
    worker_prefetch_multiplier=32,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    broker_transport_options={"confirm_publish": not FILLING},
    broker_connection_retry_on_startup=True,
)
rows = None


@app.task(name="peers.apply")
def apply(event):
    global rows
    if rows is None:
        # of each process its own: SQLite's connections do not outlive a fork
        rows = Rows(os.environ["PEERS_ROWS"])
    published = rows.apply([event])[0]
    with app.producer_pool.acquire(block=True) as producer:
        # returns when the broker has confirmed it
        producer.publish(
            published, exchange="", routing_key=STATUS_QUEUE, delivery_mode=2,
            content_type="application/cloudevents+json", content_encoding="utf-8",
        )


def fill(count):
    time = now()
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(count):
            # the queue is declared by who counts it
            apply.apply_async(args=[comment(number, time)], producer=producer, declare=[])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fill(int(sys.argv[1]))
