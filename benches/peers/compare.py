"""Measures the contestants in turn, round after round, and prints the ratios. Started by run.sh, which says what and why.

    compare.py SECONDS ROUNDS [JSON]
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import work
from contestants import BareRelay, BullMq, Celery, PikaBatched, PikaOneByOne, Remedyd
from rig import LOOK_EVERY_SECONDS, Broker, Wrong

# Without a single status event for so long, a contestant is stuck.
STUCK_SECONDS = 60
# A trial shorter than this says too little about how long a backlog lasts.
TRIAL_SECONDS = 1.0


def measure(contestant, count):
    """Events a second, from the first status event in its queue to the last; and the seconds that took."""
    contestant.prepare(count)
    process = contestant.start()
    try:
        first = latest = (time.perf_counter(), 0)
        while latest[1] < count:
            time.sleep(LOOK_EVERY_SECONDS)
            published, at = contestant.published(), time.perf_counter()
            if first[1] == 0 < published:
                first = (at, published)
            if published > latest[1]:
                latest = (at, published)
            elif at - latest[0] > STUCK_SECONDS:
                raise Wrong(f"{contestant.name} stands still at {published} of {count}:\n{process.last_lines()}")
            process.check()
        process.stop()
        contestant.finish(count)
    finally:
        process.kill()
        contestant.clean_up()
    seconds = latest[0] - first[0]
    return ((latest[1] - first[1]) / seconds if seconds > 0 else None), seconds


def sized(contestant, seconds):
    """The backlog that lasts about that long, by a short trial, which is not counted."""
    count = contestant.guess * 2
    while True:
        rate, took = measure(contestant, count)
        if took >= TRIAL_SECONDS:
            return max(round(rate * seconds), 100)
        count *= 4


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def program_says(*command):
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return (said.stdout or said.stderr).strip().splitlines()[0]


def host():
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processors": len(os.sched_getaffinity(0)), "processor": cpu[0] if cpu else platform.machine(),
        "memory_gib": round(pages / 2**30), "kernel": platform.release(),
    }


def versions():
    binary = os.environ["REMEDYD_BIN"]
    built = datetime.fromtimestamp(os.stat(binary).st_mtime, timezone.utc)
    return {
        "remedyd": f"{program_says(binary, '--version').removeprefix('remedyd ')} (built {built:%Y-%m-%d %H:%M} UTC)",
        "RabbitMQ": os.environ["PEERS_RABBITMQ"], "Redis": program_says("redis-server", "--version").split("v=")[1].split()[0],
        "Python": platform.python_version(), "Celery": version("celery"), "pika": version("pika"),
        "Node.js": program_says("node", "--version"),
        "BullMQ": json.loads((Path(os.environ["PEERS_NODE"]) / "node_modules/bullmq/package.json").read_text())["version"],
    }


def commit():
    said = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def report(contestants, rates, counts, ours):
    figures = {}
    for contestant in contestants:
        jobs = rates[contestant.name]
        figures[contestant.name] = entry = {
            "events": counts[contestant.name], "jobs_per_s": {"rounds": jobs, **spread(jobs)},
            "outbound_bytes": contestant.outbound_bytes,
        }
        if contestant is not ours:
            ratios = [mine / theirs for mine, theirs in zip(rates[ours.name], jobs)]
            entry["ratio"] = {"rounds": ratios, **spread(ratios)}
            entry["goal"] = contestant.goal
    return figures


def show(whole):
    here = whole["host"]
    print(f"\ncommit {whole['commit']}; {here['processors']} x {here['processor']}, {here['memory_gib']} GiB, Linux {here['kernel']}")
    print(", ".join(f"{name} {number}" for name, number in whole["versions"].items()))
    print(f"{whole['rounds']} rounds of about {whole['seconds']:g} s each, in turn; median (lowest to highest)\n")
    print(f"{'':<26}{'events a round':>14}  {'jobs a second':>24}  {'remedyd is so many times as fast':>34}  goal")
    for name, entry in whole["contestants"].items():
        jobs = entry["jobs_per_s"]
        line = f"{name:<26}{entry['events']:>14,}  {jobs['median']:>8,.0f} ({jobs['min']:,.0f} to {jobs['max']:,.0f})".ljust(66)
        if "ratio" in entry:
            ratio, goal = entry["ratio"], entry["goal"]
            line += f"  {ratio['median']:>18.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})".ljust(36)
            if goal is not None:
                line += f"  {goal:g}: {'reached' if ratio['median'] >= goal else 'missed'}"
        print(line.rstrip())


def main(seconds, rounds, json_file=None):
    # what was started is ended on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Path(os.environ["PEERS_SCRATCH"])
    broker = Broker(os.environ["PEERS_AMQP_URL"])
    ours = Remedyd(broker, scratch)
    contestants = [
        ours, BareRelay(broker, scratch, ours), Celery(broker, scratch), PikaOneByOne(broker, scratch), PikaBatched(broker, scratch),
        BullMq(scratch),
    ]
    rates = {contestant.name: [] for contestant in contestants}
    counts = {}
    for number in range(rounds):
        for contestant in contestants:
            name = contestant.name
            if name not in counts:
                counts[name] = sized(contestant, seconds)
            rate, took = measure(contestant, counts[name])
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:,.0f} a second, {took:.1f} s", file=sys.stderr, flush=True)
    time_of_all = work.now()
    whole = {
        "commit": commit(), "date": time_of_all, "host": host(), "versions": versions(), "seconds": seconds, "rounds": rounds,
        "inbound_bytes": len(work.compact(work.comment(0, time_of_all))), "contestants": report(contestants, rates, counts, ours),
    }
    show(whole)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(float(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    except Wrong as wrong:
        sys.exit(f"compare.py: {wrong}")
