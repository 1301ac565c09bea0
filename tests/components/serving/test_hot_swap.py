"""Adapters over HTTP and a scripted engine: what is immutable, what moves, who may move it, and what is refused."""

import asyncio
import json
from dataclasses import replace

import pytest

from components.config import UserError
from components.models.adapter_base import AdapterBase, Carrier, check_served
from components.models.folder import digest
from components.serving.adapter_files import carrier_of, fetch, fetch_declared
from components.serving.adapters import Adapter, Conflict, Shelf, Unknown
from components.serving.keys import key_digest
from components.serving.settings import AdapterOptions, ServedName
from components.tracking.lineage import write_lineage
from components.tracking.registry import register_model

BASE = "b" * 64
CARRIER = Carrier(BASE, max_rank=16)
ADMIN = {"authorization": "Bearer admin"}
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
CHAT = {"messages": [{"role": "user", "content": "What does list.sort do?"}]}


@pytest.fixture
def adapter_folder(tmp_path):
    """A function that writes an adapter's folder, with weights that no engine reads."""

    def write(name, weights="w", base=BASE, quantization=None, **config):
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
        (folder / "adapter_model.safetensors").write_text(weights)
        AdapterBase("the base", base, "lora", quantization).write(folder)
        return folder

    return write


@pytest.fixture
def swapping(plan, mlflow_storage, tmp_path, fakes):
    """A function from changes to the plan to (HTTP client, engine, ingress) of a server that carries adapters."""
    import httpx

    from components.serving.ingress import Ingress
    from components.serving.routes import build_asgi_app

    page = {"model": "bare", "lineage_id": "bare", "decided_by": {"model": BASE}}
    lineage = {name: {**own, "decided_by": {"model": BASE}} for name, own in plan.lineage.items()}
    shared = {
        "carrier": CARRIER,
        "storage": str(mlflow_storage),
        "plain_lineage": page,
        "lineage": lineage,
        "admin_digests": (key_digest("admin"),),
    }
    shared["adapter_memory"] = str(tmp_path / "memory.json")

    def make(**changes):
        engine, search = (fake() for fake in fakes)
        ingress = Ingress(replace(plan, **(shared | changes)), engine, search)
        transport = httpx.ASGITransport(build_asgi_app(ingress), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test"), engine, ingress

    return make


def call(client, method, path, body=None, headers=ADMIN):
    return asyncio.run(client.request(method, path, json=body, headers=headers))


def load(client, folder, name="support", version="1"):
    return call(client, "POST", "/v1/adapters", {"source": str(folder), "name": name, "version": version})


def point(client, alias, version):
    return call(client, "POST", "/v1/adapters/aliases", {"alias": alias, "version": version})


def ask(client, model, **fields):
    return call(client, "POST", "/v1/chat/completions", {"model": model, **CHAT, **fields})


def code(response):
    return response.status_code, response.json()["error"]["code"]


def made(version, found="d", name="support"):
    return Adapter(name, version, found, f"/{found}", "source", "lora", BASE)


def test_a_version_keeps_its_bytes_also_after_it_was_taken_away():
    shelf = Shelf()
    shelf.put(made("1"))
    shelf.put(made("1"))
    shelf.remove("support@1")
    with pytest.raises(Conflict, match="stays it"):
        shelf.put(made("1", "other"))
    shelf.put(made("1"))
    assert shelf.addresses() == ["support@1"]


def test_an_alias_is_no_version_and_follows_where_it_is_pointed():
    shelf = Shelf([made("1"), made("2", "e")])
    shelf.move("support@champion", "1")
    assert shelf.find("support@champion").version == "1"
    shelf.move("support@champion", "2")
    assert shelf.find("support@champion").version == "2"
    with pytest.raises(Unknown, match="'support@3' is not loaded"):
        shelf.move("support@champion", "3")
    for alias in ("support@1", "support@7"):
        with pytest.raises(Conflict, match="names a version"):
            shelf.move(alias, "2")
    with pytest.raises(Conflict, match="is an alias"):
        shelf.put(made("champion", "f"))
    for wrong in ("champion", "a@b@c", "@x", "a b@c"):
        with pytest.raises(UserError, match="not an adapter's address"):
            shelf.move(wrong, "2")
    assert shelf.find("support@champion").version == "2"


def test_what_is_answered_with_cannot_be_taken_away():
    shelf = Shelf([made("1"), made("2", "e"), made("3", "f")], {"support@champion": "1"}, ["support@3"])
    with pytest.raises(Conflict, match="'support@champion' means 'support@1'"):
        shelf.remove("support@1")
    with pytest.raises(Conflict, match="serve config"):
        shelf.remove("support@3")
    shelf.remove("support@champion")
    shelf.remove("support@1")
    assert shelf.addresses() == ["support@2", "support@3"]
    with pytest.raises(Unknown):
        shelf.remove("support@1")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"base": "c" * 64}, "was trained on a model with digest cccccccccccc"),
        ({"quantization": "nf4"}, "in 4 bits, and computes something else"),
        ({"use_dora": True}, "is a DoRA adapter"),
        ({"peft_type": "ADALORA"}, "is a ADALORA adapter"),
        ({"modules_to_save": ["embed_tokens"]}, "trains whole layers"),
        ({"task_type": "SEQ_CLS"}, "trains whole layers"),
        ({"r": 32}, "has rank 32, more than engine.adapters.max_rank=16"),
        ({"rank_pattern": {"q_proj": 17}}, "has rank 17"),
    ],
)
def test_an_adapter_that_the_engine_would_compute_wrongly_is_refused(adapter_folder, written, message):
    folder = adapter_folder("a", **written)
    with pytest.raises(UserError, match=message):
        check_served(folder, CARRIER)


def test_an_adapter_has_to_say_what_it_was_trained_on(adapter_folder, tmp_path):
    folder = adapter_folder("a")
    assert check_served(folder, CARRIER).kind == "lora"
    (folder / "base.json").unlink()
    with pytest.raises(UserError, match="does not say which model"):
        check_served(folder, CARRIER)
    with pytest.raises(UserError, match="no adapter at"):
        check_served(tmp_path, CARRIER)


def test_what_was_trained_before_the_model_was_quantized_is_served_only_if_that_is_stated(adapter_folder):
    folder, small = adapter_folder("a"), Carrier("5" * 64, 16, quantized_from=BASE)
    with pytest.raises(UserError, match="before it was quantized"):
        check_served(folder, small)
    assert check_served(folder, replace(small, inexact=True)).base_digest == BASE
    with pytest.raises(UserError, match=r"scaled the channels .* method.smoothing=0"):
        check_served(folder, replace(small, inexact=True, smoothed=True))
    with pytest.raises(UserError, match="with digest bbbbbbbbbbbb"):
        check_served(folder, replace(small, inexact=True, quantized_from="e" * 64))


def test_how_a_model_was_quantized_is_read_from_its_lineage(tmp_path, make_run):
    options = AdapterOptions(at_once=1, inexact=True)
    assert carrier_of(tmp_path, "d", options) == Carrier("d", 16, inexact=True)
    facts = {"base_digest": BASE, "method": {"name": "w8a8_int8", "smoothing": 0.65}}
    write_lineage(tmp_path, kind="quantized-model", run=make_run(), parents=["org/base"], facts=facts)
    assert carrier_of(tmp_path, "d", options) == Carrier("d", 16, BASE, smoothed=True, inexact=True)
    write_lineage(tmp_path, kind="model", run=make_run(), parents=["org/base"], facts=facts)  # merged, not quantized
    assert carrier_of(tmp_path, "d", options) == Carrier("d", 16, inexact=True)


def test_a_registered_adapter_is_called_as_in_the_registry_and_copied(adapter_folder, mlflow_storage, make_run):
    folder, run, place = adapter_folder("a"), make_run(), (CARRIER, mlflow_storage)
    register_model(run, "support-a", folder, "champion", {})
    adapter, alias = fetch("models:/support-a@champion", *place)
    assert (adapter.address, alias, adapter.source) == (
        "support-a@1",
        "support-a@champion",
        "models:/support-a/1@champion",
    )
    assert adapter.digest == digest(folder)
    assert fetch("models:/support-a/1", *place) == (replace(adapter, source="models:/support-a/1"), None)
    (folder / "adapter_model.safetensors").write_text("trained again")
    assert digest(adapter.folder) == adapter.digest  # what is served does not change with the folder
    again, _ = fetch(str(folder), *place, "support-a")
    assert again.version == digest(folder)[:12] and again.folder != adapter.folder
    register_model(run, "support-d", folder, "champion", {"digest": adapter.digest})
    with pytest.raises(UserError, match="are not those that were registered"):
        fetch("models:/support-d@champion", *place)
    with pytest.raises(UserError, match="is not in the MLflow store"):
        fetch("models:/support-a@nobody", *place)
    with pytest.raises(UserError, match="has no name"):
        fetch(str(folder), *place)


def test_declared_names_keep_to_their_alias(adapter_folder, mlflow_storage, make_run):
    register_model(make_run(), "support-b", adapter_folder("b"), "champion", {})
    names = (
        ServedName(name="plain"),
        ServedName(name="help", adapter="models:/support-b@champion"),
        ServedName(name="pinned", adapter="models:/support-b/1"),
        ServedName(name="own", adapter=str(adapter_folder("c", "x"))),
    )
    declared = fetch_declared(names, CARRIER, mlflow_storage)
    own = digest(adapter_folder("c", "x"))[:12]
    assert [name.adapter for name in declared.names] == [None, "support-b@champion", "support-b@1", f"own@{own}"]
    assert declared.aliases == {"support-b@champion": "1"} and len(declared.adapters) == 2
    assert [name for name, _ in declared.answering()] == ["help", "pinned", "own"]


def test_a_loaded_adapter_answers_by_its_address_and_says_so(swapping, adapter_folder):
    client, engine, _ = swapping()
    folder = adapter_folder("a")
    card = load(client, folder).json()
    assert (card["id"], card["digest"], card["base_digest"]) == ("support@1", digest(folder), BASE)
    answer = ask(client, "support@1")
    assert answer.status_code == 200 and answer.json()["model"] == "support@1"
    assert engine.attached == [engine.bodies[0]["adapter"]] and engine.attached[0]["id"] == digest(folder)
    assert answer.headers["x-raylign-adapter"] == "support@1"
    (page,) = call(client, "GET", "/v1/lineage?model=support@1").json()["data"]
    assert page["lineage_id"] == answer.headers["x-raylign-lineage"] and page["adapter"]["id"] == "support@1"
    assert page["decided_by"] == {"model": BASE, "adapter": digest(folder)}
    assert ask(client, "plain").headers.get("x-raylign-adapter") is None and engine.bodies[1]["adapter"] is None
    body = {"model": "support@1", "prompt": "Once"}
    assert call(client, "POST", "/v1/completions", body).json()["model"] == "support@1"
    assert engine.bodies[2]["adapter"] == engine.attached[0] and engine.bodies[2]["kind"] == "completion"


def test_models_lists_addresses_beside_the_declared_names(swapping, adapter_folder):
    client, _, _ = swapping()
    load(client, adapter_folder("a"))
    point(client, "support@champion", "1")
    listed = call(client, "GET", "/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["plain", "rag", "cot", "support@1", "support@champion"]
    assert [card["adapter"] for card in listed] == [None, None, None, "support@1", "support@1"]
    assert call(client, "GET", "/v1/models/support@champion").json()["adapter"] == "support@1"
    page = call(client, "GET", "/v1/adapters").json()
    assert page["aliases"] == {"support@champion": "support@1"}
    assert page["data"][0]["aliases"] == ["support@champion"]


def test_other_bytes_under_a_version_are_a_conflict_and_the_same_are_not(swapping, adapter_folder):
    client, engine, _ = swapping()
    first = load(client, adapter_folder("a")).json()
    assert load(client, adapter_folder("a")).json() == first
    assert code(load(client, adapter_folder("b", "other"))) == (409, "adapter_conflict")
    assert load(client, adapter_folder("b", "other"), version="2").status_code == 200
    assert call(client, "DELETE", "/v1/adapters/support@1").json()["deleted"]
    assert code(ask(client, "support@1")) == (404, "model_not_found")
    assert code(load(client, adapter_folder("b", "other"))) == (409, "adapter_conflict")
    assert load(client, adapter_folder("a")).status_code == 200
    ask(client, "support@1")
    assert engine.bodies[-1]["adapter"]["id"] == first["digest"]


def test_declared_names_follow_their_alias_and_a_running_request_finishes_on_what_it_began_with(
    swapping, adapter_folder, mlflow_storage
):
    one, two = (fetch(str(adapter_folder(v, v)), CARRIER, mlflow_storage, "support", v)[0] for v in ("1", "2"))
    names = (ServedName(name="help", adapter="support@champion", strategy="zero_shot_cot"),)
    lineage = {"help": {"model": "help", "lineage_id": "h", "decided_by": {"model": BASE}}}
    client, engine, ingress = swapping(
        names=names, lineage=lineage, adapters=(one, two), aliases={"support@champion": "1"}
    )
    engine.before = lambda: ingress.swap.shelf.move("support@champion", "2")
    before = ask(client, "help")  # thinks and answers: two generations, and the alias moves with the first
    assert [body["adapter"]["id"] for body in engine.bodies] == [one.digest, one.digest]
    assert before.headers["x-raylign-adapter"] == "support@1"
    after = ask(client, "help")
    assert [body["adapter"]["id"] for body in engine.bodies[2:]] == [two.digest, two.digest]
    assert after.headers["x-raylign-adapter"] == "support@2"
    assert after.headers["x-raylign-lineage"] != before.headers["x-raylign-lineage"]
    assert code(call(client, "DELETE", "/v1/adapters/support@champion")) == (409, "adapter_conflict")


def test_moving_an_alias_tells_what_it_meant_before(swapping, adapter_folder):
    client, _, _ = swapping()
    for version in ("1", "2"):
        load(client, adapter_folder(version, version), version=version)
    assert point(client, "support@champion", "1").json()["before"] is None
    moved = point(client, "support@champion", "2").json()
    assert (moved["adapter"], moved["before"]) == ("support@2", "support@1")
    assert load(client, adapter_folder("2", "2"), version="2").json()["aliases"] == ["support@champion"]
    assert code(point(client, "support@champion", "9")) == (404, "adapter_not_found")
    assert code(point(client, "support@1", "2")) == (409, "adapter_conflict")
    assert code(point(client, "champion", "2")) == (400, "invalid_adapter")
    assert ask(client, "support@champion").headers["x-raylign-adapter"] == "support@2"


def test_a_registrys_alias_comes_with_the_version(swapping, adapter_folder, make_run):
    client, _, _ = swapping()
    run = make_run()
    for weights in ("one", "two"):
        register_model(run, "support-c", adapter_folder(weights, weights), "champion", {})
        assert call(client, "POST", "/v1/adapters", {"source": "models:/support-c@champion"}).status_code == 200
    assert call(client, "GET", "/v1/adapters").json()["aliases"] == {"support-c@champion": "support-c@2"}


def test_what_is_refused_changes_nothing(swapping, adapter_folder):
    client, engine, ingress = swapping()
    other = load(client, adapter_folder("a", base="c" * 64))
    assert code(other) == (400, "invalid_adapter") and "cccccccccccc" in other.json()["error"]["message"]
    assert code(load(client, "/nowhere")) == (400, "invalid_adapter")
    assert code(load(client, adapter_folder("a"), version="no spaces")) == (400, "invalid_adapter")
    engine.refusal = "no room"
    refused = load(client, adapter_folder("a"))
    assert code(refused) == (400, "invalid_adapter") and "no room" in refused.json()["error"]["message"]
    engine.failure = RuntimeError("secret")
    assert load(client, adapter_folder("a")).status_code == 500
    assert ingress.swap.shelf.addresses() == []
    wrong = call(client, "POST", "/v1/adapters", {"source": "x", "folder": "y"})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "folder"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/adapters", {"source": "x"}),
        ("POST", "/v1/adapters/aliases", {"alias": "support@x", "version": "1"}),
        ("DELETE", "/v1/adapters/support@1", None),
    ],
)
def test_only_admin_keys_change_what_is_served(swapping, method, path, body):
    client, _, _ = swapping(key_digests=(key_digest("user"),))
    assert code(call(client, method, path, body, {"authorization": "Bearer user"})) == (403, "not_an_admin_key")
    assert code(call(client, method, path, body, {})) == (401, "invalid_api_key")
    assert call(client, method, path, body).status_code in (400, 404)
    assert call(client, "GET", "/v1/adapters", headers={"authorization": "Bearer user"}).status_code == 200
    closed, _, _ = swapping(admin_digests=())
    assert code(call(closed, method, path, body)) == (403, "no_admin_keys")
    bare, _, _ = swapping(carrier=None)
    assert code(call(bare, method, path, body)) == (404, "no_adapters")


def test_an_ingress_that_is_restarted_goes_on_with_its_adapters(swapping, adapter_folder):
    client, _, _ = swapping()
    for version in ("1", "2"):
        load(client, adapter_folder(version, version), version=version)
    point(client, "support@champion", "2")
    call(client, "DELETE", "/v1/adapters/support@1")
    again, engine, _ = swapping()
    assert ask(again, "support@champion").headers["x-raylign-adapter"] == "support@2"
    assert engine.bodies[0]["adapter"]["id"] == digest(adapter_folder("2", "2"))
    assert code(load(again, adapter_folder("x", "other"))) == (409, "adapter_conflict")
