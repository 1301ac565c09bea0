"""Embed a query, search LanceDB: what a user writes without us, timed, in a process that knows nothing of this project.

Usage: ``python -P peer_search.py SPEC.json``; see ``retrieval.search_arguments`` for what the file holds. It prints one
JSON line for each query, ``{"seconds": …}``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    """Ask as the specification says."""
    import lancedb
    import torch
    from sentence_transformers import SentenceTransformer

    spec = json.loads(Path(path).read_text())
    torch.set_num_threads(spec["threads"])
    model = SentenceTransformer(spec["model"], device="cpu")
    table: Any = lancedb.connect(spec["uri"]).open_table(spec["table"])
    table.checkout(spec["version"])
    queries = json.loads(Path(spec["queries"]).read_text())
    for number, query in enumerate([*queries[: spec["warmup"]], *queries]):
        started_s = time.monotonic()
        table.search(model.encode(query)).distance_type("cosine").limit(spec["k"]).to_list()
        if number >= spec["warmup"]:
            print(json.dumps({"seconds": time.monotonic() - started_s}))
    print("progress 1/1 steps", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
