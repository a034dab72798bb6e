"""The report of a soak (tests/soak.sh): what each proof has recorded, for a person (report.md) and as JSON (report.json).

    soak_report.py DIRECTORY COMMIT BUDGET

DIRECTORY has `runs` (proof, test, exit code, seconds; by tabs) and `reliability/` (tests/support/proof.rs). Ends with 1 if a
proof has failed or recorded nothing, or if a kind of fault was never injected. It judges nothing else.
"""

import json
import sys
from pathlib import Path

import reliability


def main(directory, commit, budget):
    directory = Path(directory)
    runs = [line.split("\t") for line in (directory / "runs").read_text().splitlines()]
    recorded = reliability.read(directory / "reliability")

    failed = [f"{name} {test}" for name, test, code, _ in runs if code != "0"]
    absent = list(reliability.never_injected(recorded))
    unrecorded = len(runs) - len(failed) - len(recorded)
    good = not failed and not absent and unrecorded <= 0

    report = {
        "commit": commit, "budget": budget, "date": reliability.date(),
        "passed": good, "failed": failed, "never_injected": absent,
        "runs": [{"binary": name, "test": test, "exit_code": int(code), "seconds": int(took)} for name, test, code, took in runs],
        "proofs": {name: proof["figures"] for name, proof in recorded.items()},
    }
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    text = [f"# Soak of {commit}", "", f"{report['date']}, budget {budget}: **{'passed' if good else 'FAILED'}**", "", "## In short", ""]
    text += [f"- {proof['line']}" for proof in recorded.values()]
    simulation = recorded.get("simulation")
    if simulation:
        figures = simulation["figures"]
        text.append(f"- simulation rate {figures['seeds_per_second']:.1f} seeds/s, {figures['virtual_days']} virtual days")
    text += [f"- FAILED: {test}, see log/{test.split()[1]}" for test in failed]
    text += [f"- NEVER INJECTED: {kind}" for kind in absent]
    if unrecorded > 0:
        text.append(f"- {unrecorded} proofs have recorded nothing")
    text += ["", "## Runs", "", "| proof | seconds | exit code |", "|---|---|---|"]
    text += [f"| {name} {test} | {took} | {code} |" for name, test, code, took in runs]
    text += ["", *reliability.table(recorded)]
    text += ["", "Figures in full: report.json. What each test has printed: log/.", ""]
    (directory / "report.md").write_text("\n".join(text))
    print("\n".join(text))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
