"""Traces in a real MLflow store: their steps and times, their scores, and a server's thread that writes them."""

import os
import socket
import time
from pathlib import Path

import pytest

from components.spans import Span, as_documents, step
from components.tracking.history import describe_run
from components.tracking.run import client_of, experiment_of, tracking_uri
from components.tracking.traces import Tracer, write_trace

PASSAGE = {"passage_id": "p", "doc_id": "d", "text": "It sorts.", "title": "sort", "source": "list.md", "score": 0.5}


def _asked(question="What does it do?", answer="[1] It sorts."):
    whole = Span("question", "CHAIN", {"question": question})
    with step(whole, "retrieve", "RETRIEVER", {"query": question}) as found:
        with step(found, "rerank", "RERANKER"):
            time.sleep(0.02)
        found.end(as_documents([PASSAGE]))
    whole.end({"answer": answer})
    return whole


def test_a_step_that_fails_says_so_and_goes_on_failing() -> None:
    whole = Span("question", "CHAIN")
    with pytest.raises(KeyError), step(whole, "retrieve", "RETRIEVER"):
        raise KeyError("gone")
    (part,) = whole.parts
    assert part.error == "KeyError: 'gone'" and part.ended_ns >= part.started_ns
    with step(None, "retrieve", "RETRIEVER") as unseen:
        unseen.end("nobody reads it")


def test_a_trace_keeps_its_steps_and_their_times(mlflow_storage: Path) -> None:
    import mlflow

    uri = tracking_uri(mlflow_storage)
    whole = _asked()
    trace_id = write_trace(uri, experiment_of(uri, mlflow_storage, "tests"), whole, tags={"request_id": "r"})
    mlflow.flush_trace_async_logging()
    trace = client_of(uri).get_trace(trace_id)
    spans = {span.name: span for span in trace.data.spans}
    assert spans["retrieve"].parent_id == spans["question"].span_id
    assert spans["rerank"].parent_id == spans["retrieve"].span_id
    assert spans["retrieve"].outputs[0]["page_content"] == "It sorts."
    rerank = whole.parts[0].parts[0]
    assert (spans["rerank"].start_time_ns, spans["rerank"].end_time_ns) == (rerank.started_ns, rerank.ended_ns)
    assert trace.info.tags["request_id"] == "r"


def test_a_trace_sends_no_later_run_to_its_store(
    mlflow_storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tracking_uri(mlflow_storage)
    write_trace(uri, experiment_of(uri, mlflow_storage, "tests"), _asked())
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    write_trace(uri, experiment_of(uri, mlflow_storage, "tests"), _asked())
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://team:5000"


def test_a_runs_traces_are_scored_by_mlflow_and_the_run_goes_on(make_run, mlflow_storage: Path) -> None:
    run = make_run()

    def length(facts):
        assert facts["passages"][0]["passage_id"] == "p" and facts["question"] == "What does it do?"
        return float(len(facts["answer"])) if facts["expected"]["counts"] else None

    wholes = [_asked(), _asked(answer="Yes."), _asked()]
    expected = [{"counts": True}, {"counts": True}, {"counts": False}]
    run.log_traces(wholes, expected, {"length": length})
    client = client_of(run.tracking_uri)
    assert describe_run(mlflow_storage, run.id)["status"] == "running"
    assert client.get_run(run.id).data.metrics["length/mean"] == pytest.approx((13 + 4) / 2)
    found = client.search_traces(locations=[client.get_run(run.id).info.experiment_id], run_id=run.id)
    scores = [[a.value for a in trace.info.assessments if a.name == "length"] for trace in found]
    assert sorted(scores) == [[], [4.0], [13.0]]


def test_a_servers_traces_are_written_beside_its_requests(mlflow_storage: Path) -> None:
    uri = tracking_uri(mlflow_storage)
    tracer = Tracer(uri, "served", str(mlflow_storage))
    began = time.monotonic()
    tracer.add(_asked(), {"request_id": "beside"})
    assert time.monotonic() - began < 0.1
    tracer.close()
    traces = client_of(uri).search_traces([experiment_of(uri, mlflow_storage, "served")])
    assert [trace.info.tags.get("request_id") for trace in traces].count("beside") == 1  # others may have theirs here


def test_a_store_that_is_gone_ends_neither_thread_nor_server(tmp_path: Path, caplog) -> None:
    tracer = Tracer("sqlite:////proc/nowhere/mlflow.db", "served", str(tmp_path))
    tracer.add(_asked(), {})
    tracer.add(_asked(), {})
    tracer.close()
    assert caplog.text.count("a trace could not be written") == 2


@pytest.mark.parametrize("waiting", [1, 3])
def test_a_store_that_does_not_answer_keeps_no_server_from_ending(
    mlflow_storage: Path, monkeypatch: pytest.MonkeyPatch, caplog, waiting: int
) -> None:
    monkeypatch.setattr("components.tracking.traces._WAITING", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = Tracer(f"http://127.0.0.1:{silent.getsockname()[1]}", "served", str(mlflow_storage))
        for _ in range(waiting):
            tracer.add(_asked(), {})
            time.sleep(0.2)
        began = time.monotonic()
        tracer.close(timeout_s=0.5)
        assert time.monotonic() - began < 0.9
        assert "the last traces are left out" in caplog.text
