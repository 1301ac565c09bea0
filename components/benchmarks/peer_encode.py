"""A plain sentence-transformers loop, timed: a script for a plain process, which knows nothing of this project.

Usage: ``python -P peer_encode.py SPEC.json``; see ``retrieval.encode_arguments`` for what the file holds. It prints one
JSON line for each slice of the texts, ``{"texts": …, "seconds": …}``, and at the end ``{"seconds": …}`` of all, loading
included. The vectors go to a NumPy file.
"""

import json
import sys
import time
from pathlib import Path


def main(path: str) -> None:
    """Embed as the specification says."""
    started_s = time.monotonic()
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    spec = json.loads(Path(path).read_text())
    torch.set_num_threads(spec["threads"])
    options = {} if spec["dtype"] == "float32" else {"model_kwargs": {"dtype": getattr(torch, spec["dtype"])}}
    model = SentenceTransformer(spec["model"], device="cpu", **options)
    texts = json.loads(Path(spec["texts"]).read_text())
    size = -(-len(texts) // spec["slices"])
    found = []
    for number, start in enumerate(range(0, len(texts), size), 1):
        own = texts[start : start + size]
        lap_s = time.monotonic()
        vectors = model.encode(own, batch_size=spec["batch_size"], convert_to_tensor=True, show_progress_bar=False)
        found.append(vectors.float().numpy())
        print(json.dumps({"texts": len(own), "seconds": time.monotonic() - lap_s}), flush=True)
        print(f"progress {number}/{spec['slices']} steps", file=sys.stderr, flush=True)
    np.save(spec["vectors"], np.concatenate(found))
    print(json.dumps({"seconds": time.monotonic() - started_s}))


if __name__ == "__main__":
    main(sys.argv[1])
