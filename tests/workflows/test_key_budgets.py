"""Budgets of keys on a real Ray Serve: two replicas of the ingress agree, clients leave, and the ledger dies."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.serving.keys import key_digest
from components.serving.settings import EngineOptions, KeyBudgets, KeyLimits, ServedName

CHAT = "/v1/chat/completions"
NAMES = ("counted", "leaving", "outliving")
BUDGETS = KeyBudgets(
    window_s=600,
    named={"counted": KeyLimits(requests=12), "leaving": KeyLimits(tokens=1000), "outliving": KeyLimits(requests=3)},
)


def wordy_engine():
    """A deployment in the engine's place that writes as many words as it may, two hundred a second."""
    from ray import serve

    class Wordy:
        async def generate(self, body, kind, adapter):
            import asyncio
            import json

            for number in range(body["max_tokens"] + 1):
                word, reason = ("word ", None) if number < body["max_tokens"] else ("", "length")
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": reason}
                yield {"lines": [f"data: {json.dumps({'choices': [choice]})}\n\n"]}
                await asyncio.sleep(0.005)

        async def load(self):
            return {"running": 0}

    return serve.deployment(Wordy, name="engine", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}).bind()


@pytest.fixture(scope="module")
def url(ray_cluster, tmp_path_factory):
    from components.serving import app
    from components.serving.ingress import ServingPlan

    digests = {key_digest(f"key of {name}"): name for name in NAMES}
    plan = ServingPlan(
        "model",
        (ServedName(name="plain"),),
        EngineOptions(),
        str(tmp_path_factory.mktemp("feedback")),
        lineage={"plain": {"lineage_id": "l" * 8}},
        key_digests=tuple(digests),
        key_names=digests,
        key_budgets=BUDGETS,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "build", lambda given: app.around(given, wordy_engine(), ingresses=2))
        with app.serving(plan, "127.0.0.1", 0) as address:
            yield address


def post(url, name, **fields):
    import httpx

    body = {"model": "plain", "messages": [{"role": "user", "content": "?"}], "max_tokens": 2, **fields}
    return httpx.post(f"{url}{CHAT}", json=body, headers={"authorization": f"Bearer key of {name}"}, timeout=60)


def replicas(deployment):
    import ray

    return [one for one in ray.util.list_named_actors(all_namespaces=True) if f"#{deployment}#" in one["name"]]


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


def test_replicas_of_the_ingress_share_one_budget(url):
    assert len(replicas("ingress")) == 2 and len(replicas("ledger")) == 1
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(url, "counted"), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 12 + [429] * 12
    refused = post(url, "counted")
    assert refused.json()["error"]["type"] == "rate_limit_error" and 400 < int(refused.headers["retry-after"]) <= 600


def test_the_openai_client_knows_the_refusal(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="key of counted", max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "?"}])
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_back_what_was_not_written(url, stream):
    import httpx

    before = int(post(url, "leaving").headers["x-ratelimit-remaining-tokens"])
    body = {"model": "plain", "messages": [{"role": "user", "content": "?"}], "max_tokens": 400, "stream": stream}

    async def leave():
        async with httpx.AsyncClient(headers={"authorization": "Bearer key of leaving"}) as client:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.post(f"{url}{CHAT}", json=body), 0.6)

    asyncio.run(leave())
    time.sleep(1)
    after = int(post(url, "leaving").headers["x-ratelimit-remaining-tokens"])
    assert 4 < before - after < 300, "it pays for some words, and holds none of its 400"


def test_a_ledger_that_dies_is_replaced_and_counts_anew(url):
    import ray

    assert [post(url, "outliving").status_code for _ in range(4)] == [200, 200, 200, 429]
    (old,) = replicas("ledger")
    ray.kill(ray.get_actor(old["name"], namespace=old["namespace"]))
    seen = []

    def answers():
        seen.append(post(url, "outliving"))
        return seen[-1].status_code == 200

    wait_for(answers)
    assert {answer.status_code for answer in seen} <= {200, 503}
    assert all(answer.json()["error"]["code"] == "budget_unavailable" for answer in seen[:-1])
    assert seen[-1].headers["x-ratelimit-remaining-requests"] == "2"
    assert [one["name"] for one in replicas("ledger")] != [old["name"]]
