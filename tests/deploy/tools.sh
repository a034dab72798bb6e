#!/usr/bin/env bash
# Puts the validators of requirements.txt into a virtual environment below target, once, and prints its directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tools=${CARGO_TARGET_DIR:-target}/deploy-tools
mkdir -p "$tools"
# tests run side by side, each in a process of its own
exec 9>"$tools/lock"
flock 9
if ! cmp -s tests/deploy/requirements.txt "$tools/installed"; then
    /usr/bin/python3 -m venv --clear "$tools/venv" >&2
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/deploy/requirements.txt >&2
    cp tests/deploy/requirements.txt "$tools/installed"
fi
realpath "$tools/venv/bin"
