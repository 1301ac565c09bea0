"""Rows of a passages table, as build_index writes them, for tests."""

import json
import math
import random

_VERBS = ["Return", "Create", "Remove", "Compute", "Update", "Read", "Write", "Open", "Close", "Merge"]
_THINGS = [
    *("archive", "barrier", "calendar", "decimal", "element", "fraction", "gateway", "handler", "iterator", "journal"),
    *("kernel", "ledger", "mailbox", "number", "object", "packet", "queue", "record", "socket", "thread"),
]
_WAYS = ["quickly", "safely", "twice", "remotely", "lazily", "eagerly", "silently", "locally", "partly", "wholly"]


def passages(modules: int = 8, per_module: int = 20, *, symbols: bool = True) -> list[dict]:
    """`modules` x `per_module` distinct passages of two or three sentences, with unit vectors."""
    rng = random.Random(7)
    rows = []
    for m in range(modules):
        for i in range(per_module):
            verb, thing, way = rng.choice(_VERBS), _THINGS[i % len(_THINGS)], rng.choice(_WAYS)
            other = _THINGS[(i * 7 + m) % len(_THINGS)]
            name = f"mod{m}.fn{m}x{i}"
            text = (
                f"{verb} the {thing} of region {m * 100 + i} {way} from the {other} store. "
                f"If the {other} is locked, a waiter for {thing} pages is queued {way} at once. "
                f"The optional limit argument bounds how many {other} entries of {thing} kind are kept."
            )
            vector = [rng.gauss(0, 1) + 3 * (d == m) for d in range(16)]
            norm = math.sqrt(sum(v * v for v in vector))
            rows.append(
                {
                    "passage_id": f"{m}-{i}",
                    "doc_id": name,
                    "text": f"{name}(limit=None)\n\n{text}" if symbols else text,
                    "start": 0,
                    "end": len(text),
                    "source": f"mod{m}",
                    "title": name if symbols else f"Report {m} {i}",
                    "group": f"mod{m}",
                    "symbol": name if symbols else None,
                    "metadata": json.dumps({"kind": "function"}),
                    "vector": [v / norm for v in vector],
                }
            )
    return rows
