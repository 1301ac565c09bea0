"""The steps that an answer took, with their times: what a trace is made of. Plain data that crosses processes.

``components.tracking.traces`` writes them where people look at them; whoever does the work only notes them here.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["CHAIN", "RETRIEVER", "RERANKER", "LLM", "EVALUATOR"]  # as MLflow's UI knows them


@dataclass
class Span:
    """One step and its parts; times are nanoseconds since 1970."""

    name: str
    kind: Kind
    inputs: Any = None
    outputs: Any = None
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int | None = None
    error: str = ""
    parts: list["Span"] = field(default_factory=list)

    def end(self, outputs: Any = None, error: BaseException | None = None) -> None:
        """Note what came out and when; the first end counts."""
        if self.ended_ns is None:
            self.ended_ns, self.outputs = time.time_ns(), outputs
            self.error = f"{type(error).__name__}: {error}" if error else ""


@contextlib.contextmanager
def step(whole: Span | None, name: str, kind: Kind, inputs: Any = None) -> Iterator[Span]:
    """Note what the body does as a part of ``whole``; the body says what came out by ``end``.

    Without a whole nobody reads it.
    """
    part = Span(name, kind, inputs)
    if whole is not None:
        whole.parts.append(part)
    try:
        yield part
    except BaseException as error:
        part.end(error=error)
        raise
    part.end()


def as_documents(passages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return retrieved passages as a RETRIEVER's outputs, which MLflow's UI and scorers read."""
    return [
        {
            "page_content": passage["text"],
            "metadata": {
                "doc_uri": passage.get("source") or "",
                **{key: passage.get(key) for key in ("passage_id", "doc_id", "title", "symbol", "score")},
            },
        }
        for passage in passages
    ]
