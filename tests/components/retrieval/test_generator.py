"""A language model over HTTP: what is asked of it, and what its silence says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.config import UserError
from components.retrieval.generator import LanguageModel, generator
from components.retrieval.retrieve import RetrieveConfig, Retriever
from components.retrieval.transforms import Tools, transformed
from components.retrieval.transforms.multi_query import MultiQuery
from tests.components.retrieval.made_up_index import make_index


@pytest.fixture
def endpoint():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            message = {"role": "assistant", "content": "1. How hot?\n2. How warm?"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_transform_asks_the_endpoint(endpoint) -> None:
    url, asked = endpoint
    tools = Tools(lambda *_: [], generator(LanguageModel(url=url, model="m", max_tokens=7)))
    probes = transformed("How hot is it?", tools, MultiQuery(name="multi_query"))
    assert [probe.words for probe in probes] == ["How hot is it?", "How hot?", "How warm?"]
    ((path, body),) = asked
    assert path == "/v1/chat/completions" and body["temperature"] == 0 and body["max_tokens"] == 7
    assert body["messages"][0]["content"].endswith("Question: How hot is it?")


def test_a_search_asks_the_model_that_its_transform_names(endpoint, tmp_path: Path) -> None:
    """So does a served name whose exam chose such a search: nothing else says which model is meant."""
    url, asked = endpoint
    transform = {"name": "multi_query", "language_model": {"url": url, "model": "own"}}
    way = RetrieveConfig.model_validate({"mode": "text", "transform": transform})
    again = RetrieveConfig.model_validate(way.model_dump(mode="json"))  # as an exam keeps it
    found = Retriever(make_index(str(tmp_path), 10), tmp_path, again).search("How hot is the queue?")
    assert found and [body["model"] for _, body in asked] == ["own"]


def test_silence_and_a_missing_key_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = generator(LanguageModel(url="http://127.0.0.1:9/v1", model="m", timeout_s=2))
    with pytest.raises(UserError, match="does not answer"):
        silent("x")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match="NO_SUCH_KEY, which is not set"):
        generator(LanguageModel(url="http://x/v1", model="m", key="NO_SUCH_KEY"))
