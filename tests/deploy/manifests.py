"""Validates Kubernetes manifests (a stream on standard input) and prints them as one JSON array.

Built-in kinds are held against the schemas of the Kubernetes version given as the argument, strictly. A ServiceMonitor is
held against the operator's model: what the model does not know would be lost on the way through it.
"""

import json
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor


def lost(given, kept, path=""):
    """Where `given` says more than `kept`."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(given) != len(kept):
            yield path
        else:
            for index, (ours, theirs) in enumerate(zip(given, kept)):
                yield from lost(ours, theirs, f"{path}[{index}]")


def check(document, version):
    if document["kind"] == "ServiceMonitor":
        model = ServiceMonitor.model_validate(document)
        kept = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
        unknown = list(lost(document, kept))
        if unknown:
            raise ValueError(f"unknown fields: {', '.join(unknown)}")
    else:
        kubernetes_validate.validate(document, version, strict=True)


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    wrong = 0
    for document in documents:
        name = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        try:
            check(document, sys.argv[1])
        except Exception as error:  # whichever library says no, in its own words
            print(f"{name}: {error}", file=sys.stderr)
            wrong += 1
    if wrong:
        sys.exit(1)
    json.dump(documents, sys.stdout)


main()
