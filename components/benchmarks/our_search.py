"""Our Retriever, timed in a process of its own, as the serving deployment asks it.

Usage: ``python -m components.benchmarks.our_search SPEC.json``; see ``retrieval.search_arguments`` for what the file
holds. It prints one JSON line for each query, ``{"seconds": …}``.
"""

import json
import sys
import time
from pathlib import Path


def main(path: str) -> None:
    """Ask as the specification says."""
    import torch

    from components.data import store
    from components.retrieval.retrieve import RetrieveConfig, Retriever

    spec = json.loads(Path(path).read_text())
    torch.set_num_threads(spec["threads"])
    ref = store.make_ref(spec["uri"], spec["table"], spec["version"])
    retriever = Retriever(ref, spec["model"], RetrieveConfig(mode=spec["mode"], k=spec["k"]))
    queries = json.loads(Path(spec["queries"]).read_text())
    for number, query in enumerate([*queries[: spec["warmup"]], *queries]):
        started_s = time.monotonic()
        retriever.search(query)
        if number >= spec["warmup"]:
            print(json.dumps({"seconds": time.monotonic() - started_s}))
    print("progress 1/1 steps", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
