"""The work that every contestant does for each event, in so far as it is Python: read it, write its agent's row, say so.

What comes in and what goes out has the form that remedyd reads and writes, so that the bytes are the same for all.
Never here: a broker. The row is durable when `apply` returns: SQLite, write-ahead log, synchronous FULL.
"""

import fcntl
import json
import sqlite3
from datetime import datetime, timezone

# Rows in all: each event changes one that is there or makes it, round and round.
AGENTS = 1_000
TENANTS = 100
ACCOUNT = 700
INBOUND_QUEUE = "peers.events"
STATUS_QUEUE = "peers.status"


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def _envelope(event_id, kind, agent, time, data):
    return {
        "specversion": "1.0", "id": event_id, "source": "vendor/soc", "type": kind, "time": time,
        "tenantid": f"{ACCOUNT}.{agent % TENANTS + 1}", "subject": f"incident_reports/{1_000_000 + agent}",
        "datacontenttype": "application/json", "data": data,
    }


def comment(number, time):
    """The event: remedyd publishes exactly one for it. About 400 bytes."""
    agent = number % AGENTS
    text = f"Comment {number}: the binary is not signed, no other host of the organization has been seen with it."
    data = {"incident_report_id": 1_000_000 + agent, "agent_id": agent + 1, "comment": text}
    return _envelope(f"comment-{number}", "incident_report.comment_added", agent, time, data)


def report(agent, time):
    """The report that an agent's comments are about. Only remedyd asks for one to be there."""
    number = 1_000_000 + agent
    return _envelope(f"report-{agent}", "incident_report.created", agent, time, {
        "incident_report": {
            "id": number, "account_id": ACCOUNT, "organization_id": agent % TENANTS + 1, "agent_id": agent + 1,
            "platform": "windows", "severity": "high", "status": "sent", "subject": f"Incident on PC-{agent + 1}",
            "summary": "A scheduled task starts an encoded command.", "body": "A scheduled task starts an encoded command.",
            "created_at": time, "sent_at": time, "status_updated_at": time, "updated_at": time, "plan_revision": 1,
            "remediations": {"has_more": False, "items": []}, "footholds": [],
        },
    })


def status(event, sequence):
    """What is published for an event, as remedyd would."""
    tenant, subject = event["tenantid"], event["subject"]
    return compact({
        "specversion": "1.0", "id": f"{tenant}:{subject}:{sequence}", "source": "peer", "type": event["type"],
        "subject": subject, "time": event["time"], "datacontenttype": "application/json", "tenantid": tenant,
        "schemaversion": "1", "sequence": str(sequence), "causationid": event["id"], "data": event["data"],
    })


class Rows:
    """A row for each agent, with the number of its status events."""

    def __init__(self, path):
        # Of several processes one writes at a time. SQLite's own waiting sleeps in growing steps; a lock of the
        # system's wakes the next at once, and Celery is the faster for it.
        self._turn = open(f"{path}.turn", "w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._rows = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = FULL")
        self._rows.execute(
            "CREATE TABLE IF NOT EXISTS agents (agent INTEGER PRIMARY KEY, tenant TEXT NOT NULL,"
            " sequence INTEGER NOT NULL, last_event TEXT NOT NULL, changed_at TEXT NOT NULL)"
        )
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def apply(self, events):
        """One transaction for all of these events. Gives the status event of each."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self._rows.execute("BEGIN IMMEDIATE")
            statuses = [status(event, self._raise(event)) for event in events]
            self._rows.execute("COMMIT")
            return statuses
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _raise(self, event):
        changed = self._rows.execute(
            "INSERT INTO agents VALUES (?, ?, 1, ?, ?) ON CONFLICT (agent) DO UPDATE"
            " SET sequence = sequence + 1, last_event = excluded.last_event, changed_at = excluded.changed_at"
            " RETURNING sequence",
            (event["data"]["agent_id"], event["tenantid"], event["id"], event["time"]),
        )
        return changed.fetchall()[0][0]


def events_in_rows(path):
    """How many events the rows say there were."""
    rows = sqlite3.connect(path)
    try:
        return rows.execute("SELECT coalesce(sum(sequence), 0) FROM agents").fetchone()[0]
    finally:
        rows.close()
