"""What the proofs have recorded (proof.rs), for a person and as JSON: the block that ends `make test`.

    reliability.py DIRECTORY COMMIT

DIRECTORY has a line (NAME.txt) and figures (NAME.json) of each proof. Writes DIRECTORY.json and DIRECTORY.md, prints the block:
each proof's line with its seed, and what was really injected. A kind of fault that was never injected is told; under $CI, where
all that the proofs need is there, it is a failure.
"""

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

# Figures that count what was injected. A proof with a 0 in one of them has proven less than its name says.
INJECTED = {"faults", "points", "kills", "stops", "broker_kills", "cuts", "while_creating", "while_opening",
            "while_appending", "in_a_checkpoint", "left_a_torn_batch", "over_sled_alone", "inputs", "seeds"}


def read(directory):
    """By name, in the order of the summary: the line and the figures of each proof."""
    recorded = {}
    for path in sorted(directory.glob("*.json")):
        line = path.with_suffix(".txt").read_text().strip()
        recorded[path.stem.split("-", 1)[1]] = {"line": line, "figures": json.loads(path.read_text())}
    return recorded


def counts(figures):
    """What was injected, by kind."""
    for key, value in figures.items():
        if key in INJECTED:
            yield from (value if isinstance(value, dict) else {key: value}).items()


def injected(figures):
    """The same as one line."""
    return ", ".join(f"{kind} {count}" for kind, count in counts(figures)) or "-"


def never_injected(recorded):
    """Kinds of faults with a 0, by name."""
    for name, proof in recorded.items():
        figures = proof["figures"]
        yield from (f"{name}: {kind}" for kind, count in counts(figures) if count == 0)
        if figures.get("full_disk_run") is False:
            yield f"{name}: disk full"


def seed(figures):
    return figures.get("seed", figures.get("first_seed", "-"))


def table(recorded):
    """The seeds and what was injected, in Markdown."""
    lines = ["## Really injected", "", "| proof | first seed | injected |", "|---|---|---|"]
    return lines + [f"| {name} | {seed(proof['figures'])} | {injected(proof['figures'])} |" for name, proof in recorded.items()]


def date():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def main(directory, commit):
    directory = Path(directory)
    recorded = read(directory)
    absent = list(never_injected(recorded))
    at = date()
    report = {
        "commit": commit, "date": at, "never_injected": absent,
        "proofs": {name: proof["figures"] for name, proof in recorded.items()},
    }
    directory.with_suffix(".json").write_text(json.dumps(report) + "\n")
    text = [f"# Reliability at {commit}", "", at, "", "## In short", "", *(f"- {proof['line']}" for proof in recorded.values())]
    text += [f"- NEVER INJECTED: {kind}" for kind in absent]
    text += ["", *table(recorded), "", f"Figures in full: {directory.name}.json.", ""]
    directory.with_suffix(".md").write_text("\n".join(text))

    print(f"== reliability at {commit}")
    for proof in recorded.values():
        print(proof["line"])
    print("seeds " + ", ".join(f"{name}={seed(proof['figures'])}" for name, proof in recorded.items() if seed(proof["figures"]) != "-"))
    if "simulation" in recorded:
        print(f"injected in simulation: {injected(recorded['simulation']['figures'])}")
    for kind in absent:
        print(f"NEVER INJECTED {kind}")
    return 1 if absent and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
