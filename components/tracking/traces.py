"""MLflow traces: the steps behind answers, written for people to look at, and scored by ``mlflow.genai``."""

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.spans import Span
from components.tracking.run import client_of, experiment_of

logger = logging.getLogger(__name__)
_WAITING = 1000  # traces that may wait to be written; more are left out
_CLOSING_S = 5.0  # how long a server's end may wait for its traces; Ray Serve gives its replicas 20 s


Measure = Callable[[Mapping[str, Any]], float | None]  # of ``facts_of`` a trace; None: it says nothing of this answer


def write_trace(
    uri: str, experiment_id: str, whole: Span, *, run_id: str | None = None, tags: Mapping[str, str] | None = None
) -> str:
    """Write a trace to the MLflow store and return its id.

    Args:
        run_id: of the run that it is shown under.
    """
    _point_mlflow_at(uri)
    client = client_of(uri)
    root = client.start_trace(
        whole.name,
        span_type=whole.kind,
        inputs=whole.inputs,
        tags=dict(tags or {}),
        experiment_id=experiment_id,
        start_time_ns=whole.started_ns,
        run_id=run_id,
    )
    for part in whole.parts:
        _write_part(client, part, root.trace_id, root.span_id)
    client.end_trace(
        root.trace_id, outputs=whole.outputs, status=_status(whole), end_time_ns=whole.ended_ns or whole.started_ns
    )
    return str(root.trace_id)


def _point_mlflow_at(uri: str) -> None:
    """Set the store of MLflow's exporter, which doesn't ask the client that a span was made by.

    MLflow sets an environment variable with it, which would send every later run of this process, and of processes that
    it starts, to this store: that one stays as it was.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def _write_part(client: Any, part: Span, trace_id: str, parent_id: str) -> None:
    span = client.start_span(
        part.name, trace_id, parent_id, span_type=part.kind, inputs=part.inputs, start_time_ns=part.started_ns
    )
    for inner in part.parts:
        _write_part(client, inner, trace_id, span.span_id)
    client.end_span(
        trace_id,
        span.span_id,
        outputs=part.outputs,
        status=_status(part),
        attributes={"error": part.error} if part.error else None,
        end_time_ns=part.ended_ns or part.started_ns,
    )


def _status(span: Span) -> str:
    return "ERROR" if span.error else "OK"


def score_traces(
    uri: str,
    run_id: str,
    trace_ids: Sequence[str],
    expected: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Measure],
) -> None:
    """Let ``mlflow.genai.evaluate`` score traces within a run: each gets its assessments, the run their means.

    Args:
        expected: what a right answer has, of each trace.
    """
    import mlflow

    _point_mlflow_at(uri)
    mlflow.flush_trace_async_logging()
    client = client_of(uri)
    rows = [
        {"trace": client.get_trace(trace_id), "expectations": dict(own)}
        for trace_id, own in zip(trace_ids, expected, strict=True)
    ]
    mlflow.start_run(run_id=run_id)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the workflow's result
            mlflow.genai.evaluate(data=rows, scorers=[_scorer(name, measure) for name, measure in measures.items()])
    finally:
        mlflow.end_run("RUNNING")  # it is not done yet, and only what is done has a result


def _scorer(name: str, measure: Measure) -> Any:
    from mlflow.entities import Feedback
    from mlflow.genai.scorers import scorer

    @scorer(name=name)
    def scored(trace: Any, expectations: dict[str, Any]) -> list[Feedback]:
        value = measure(facts_of(trace, expectations or {}))
        return [] if value is None else [Feedback(name=name, value=float(value))]

    return scored


def facts_of(trace: Any, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace's ``question`` and ``answer``, the ``passages`` that were found, and what is ``expected``."""
    root = next(span for span in trace.data.spans if span.parent_id is None)
    found = [s for s in trace.data.spans if s.span_type == "RETRIEVER" and s.parent_id == root.span_id]
    return {
        "question": (root.inputs or {}).get("question", ""),
        "answer": (root.outputs or {}).get("answer", ""),
        "passages": [{**row["metadata"], "text": row["page_content"]} for span in found for row in span.outputs or ()],
        "expected": dict(expected),
    }


class Tracer:
    """Writes the traces of a server in a thread of its own, so that no request waits for the store."""

    def __init__(self, uri: str, experiment: str, storage: str) -> None:
        self._uri, self._experiment, self._storage = uri, experiment, storage
        self._waiting: queue.Queue[tuple[Span, dict[str, str]] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="traces", daemon=True)
        self._thread.start()

    def add(self, whole: Span, tags: Mapping[str, str]) -> None:
        """Have a trace written; where too many wait, it is left out, and the log says so."""
        try:
            self._waiting.put_nowait((whole, dict(tags)))
        except queue.Full:
            logger.warning("a trace is left out: %d wait to be written already", _WAITING)

    def close(self, timeout_s: float = _CLOSING_S) -> None:
        """Wait until what was added is written, or say after ``timeout_s`` that the rest is left out."""
        ends = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, ends - time.monotonic()))
        if self._thread.is_alive():
            logger.warning("the last traces are left out: the store took them for more than %g s", timeout_s)

    def _write_all(self) -> None:
        import mlflow

        experiment_id = None
        while (item := self._waiting.get()) is not None:
            try:
                experiment_id = experiment_id or experiment_of(self._uri, Path(self._storage), self._experiment)
                write_trace(self._uri, experiment_id, item[0], tags=item[1])
            except Exception:  # a store that is gone must not end the thread, nor the server
                logger.exception("a trace could not be written")
        mlflow.flush_trace_async_logging()
