"""What is checked before anything starts: names, keys, ports, and what the engine is told on CPU and GPU."""

import asyncio
import json
import os
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

from components.config import UserError
from components.serving.app import check_fits, check_names, default_names, free_port, make_plan
from components.serving.keys import key_digest
from components.serving.settings import (
    AdapterOptions,
    EngineOptions,
    KeyBudgets,
    KeyLimits,
    SearchOptions,
    ServedName,
)

PLAIN = ServedName(name="a")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((PLAIN, PLAIN), "'a' is declared twice"),
        ((ServedName(name="a", search=SearchOptions()),), "searches, but there is no index"),
        ((ServedName(name="a", strategy="oracle"),), "no reasoning strategy 'oracle'"),
        ((ServedName(name="a", options={"depth": 1}),), "has no option 'depth'"),
    ],
)
def test_names_that_cannot_be_served_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        check_names(names, has_index=False)


def test_without_names_there_is_an_assistant_and_with_an_index_two_more():
    assert [name.name for name in default_names(has_index=False)] == ["assistant"]
    names = default_names(has_index=True)
    assert [name.name for name in names] == ["assistant", "assistant-rag", "assistant-rag-cot"]
    check_names(names, has_index=True)


def test_an_index_needs_its_embedder(tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match="with the embedder that made it"):
        make_plan(
            model=str(tiny_model_dir), names=(), engine=EngineOptions(), storage=tmp_path, index="/db#p", embedder=None
        )


def test_a_plan_has_keys_as_digests_and_names_only(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLIGN_TEST_KEYS", "alice:one, two")
    monkeypatch.setenv("RAYLIGN_TEST_ADMINS", "three")
    given = {"model": str(tiny_model_dir), "names": (PLAIN,), "engine": EngineOptions(), "storage": tmp_path}
    budgets = KeyBudgets(each=KeyLimits(requests=3))
    plan = make_plan(**given, keys="RAYLIGN_TEST_KEYS", admin_keys="RAYLIGN_TEST_ADMINS", key_budgets=budgets)
    assert plan.key_digests == (key_digest("one"), key_digest("two")) and plan.admin_digests == (key_digest("three"),)
    assert plan.key_names[key_digest("one")] == "alice" and len(plan.key_names) == 3
    assert not any(key in repr(plan) for key in ("'one'", "'two'", "'three'"))
    with pytest.raises(UserError, match="limits API keys, and there are none"):
        make_plan(**given, admin_keys="RAYLIGN_TEST_ADMINS", key_budgets=budgets)


def test_a_taken_port_is_refused_and_zero_takes_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0


def test_a_plan_pins_the_weights_and_gives_every_name_its_own_lineage(tiny_model_dir, tmp_path):
    names = (PLAIN, ServedName(name="b", strategy="zero_shot_cot"))
    plan = make_plan(model=str(tiny_model_dir), names=names, engine=EngineOptions(), storage=tmp_path)
    ids = [plan.lineage[name]["lineage_id"] for name in ("a", "b")]
    assert plan.model == str(tiny_model_dir.resolve()) and len(set(ids)) == 2
    again = make_plan(model=str(tiny_model_dir), names=names, engine=EngineOptions(), storage=tmp_path)
    assert [again.lineage[name]["lineage_id"] for name in ("a", "b")] == ids
    with pytest.raises(UserError, match="no model"):
        make_plan(model=str(tmp_path / "gone"), names=names, engine=EngineOptions(), storage=tmp_path)


def test_lineage_names_the_tables_and_the_base_that_the_model_comes_from(tiny_model_dir, tmp_path, make_run):
    import shutil

    from components.tracking.lineage import write_lineage

    run = make_run()
    folders = [tmp_path / name for name in ("adapter", "quantized")]
    shutil.copytree(tiny_model_dir, folders[1])
    folders[0].mkdir()
    adapter = write_lineage(
        folders[0], kind="adapter", run=run, parents=["package:base", "/db#pairs@3"], facts={"r": 8}
    )
    write_lineage(folders[1], kind="quantized-model", run=run, parents=[folders[0]], facts={"scheme": "W8A8"})
    config = json.loads((folders[1] / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": []}
    (folders[1] / "config.json").write_text(json.dumps(config))
    plan = make_plan(model=str(folders[1]), names=(PLAIN,), engine=EngineOptions(), storage=tmp_path)
    page = plan.lineage["a"]
    assert page["made_from"]["tables"] == ["/db#pairs@3"] and page["made_from"]["models"] == ["package:base"]
    assert [step["kind"] for step in page["made_from"]["steps"]] == ["quantized-model", "adapter"]
    assert page["made_from"]["steps"][1]["lineage_id"] == adapter
    assert page["quantization"] == {"quant_method": "compressed-tensors", "format": "int-quantized"}


def test_what_would_wait_for_ever_is_refused(plan, tiny_model_dir, tmp_path, monkeypatch):
    import shutil

    def fitting(model=tiny_model_dir, **options):
        return replace(plan, model=str(model), engine=EngineOptions(**options))

    check_fits(fitting(), {"CPU": 2.0}, on_gpu=False)
    with pytest.raises(UserError, match="asks for 6 CPUs and the cluster has 2"):
        check_fits(fitting(cpus=3, replicas=2), {"CPU": 2.0}, on_gpu=False)
    with pytest.raises(UserError, match="asks for 2 GPUs and the cluster has 1"):
        check_fits(fitting(tensor_parallel=2), {"CPU": 8.0, "GPU": 1.0}, on_gpu=True)
    check_fits(fitting(tensor_parallel=2, gpu=True), {"CPU": 0.0}, on_gpu=True)  # an autoscaled pool brings them
    fp8 = tmp_path / "fp8"
    shutil.copytree(tiny_model_dir, fp8)
    config = json.loads((fp8 / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    (fp8 / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("components.serving.app._cpu_flags", list)
    with pytest.raises(UserError, match="quantize it to w8a8_int8"):
        check_fits(fitting(fp8), {"CPU": 2.0}, on_gpu=False)
    check_fits(fitting(fp8), {"CPU": 2.0, "GPU": 1.0}, on_gpu=True)
    config["quantization_config"]["format"] = "int-quantized"
    (fp8 / "config.json").write_text(json.dumps(config))
    check_fits(fitting(fp8), {"CPU": 2.0}, on_gpu=False)
    with pytest.raises(UserError, match="a CPU puts adapters on unquantized weights only"):
        check_fits(fitting(fp8, adapters=AdapterOptions(at_once=1)), {"CPU": 2.0}, on_gpu=False)
    check_fits(fitting(adapters=AdapterOptions(at_once=1)), {"CPU": 2.0}, on_gpu=False)


def test_a_cpu_engine_neither_compiles_nor_guesses_memory_and_a_gpu_engine_reserves_gpus():
    from components.serving.engines import bundles, engine_arguments, environment

    options = EngineOptions(kv_cache_gib=2, tensor_parallel=2, cpus=3)
    on_cpu = engine_arguments(options, on_gpu=False)
    assert on_cpu["enforce_eager"] is True
    # a seeded request whose prompt comes in pieces would kill the engine
    assert on_cpu["enable_chunked_prefill"] is False and on_cpu["max_num_batched_tokens"] >= options.max_model_len
    assert "enable_chunked_prefill" not in engine_arguments(options, on_gpu=True)
    assert environment(options, on_gpu=False)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert bundles(options, on_gpu=False) == [{"CPU": 3}]
    assert "enforce_eager" not in engine_arguments(options, on_gpu=True)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(options, on_gpu=True)
    assert bundles(options, on_gpu=True) == [{"GPU": 1, "CPU": 3}] * 2


def test_a_lone_cpu_engine_is_bound_to_the_cores_it_may_use_and_several_are_not(monkeypatch):
    from components.serving.engines import bind_threads

    cores = sorted(os.sched_getaffinity(0))
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAYLIGN_ENGINE_REPLICAS", "1")
    bind_threads(None)
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == ",".join(map(str, cores))
    bind_threads(1)
    assert (os.environ["VLLM_CPU_OMP_THREADS_BIND"], os.environ["OMP_NUM_THREADS"]) == (str(cores[0]), "1")
    monkeypatch.setenv("RAYLIGN_ENGINE_REPLICAS", "2")
    bind_threads(None)
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_an_engine_has_room_for_adapters_only_where_the_config_asks():
    from components.serving.engines import engine_arguments

    assert "enable_lora" not in engine_arguments(EngineOptions(), on_gpu=False)
    asked = EngineOptions(adapters=AdapterOptions(at_once=12, kept=4, max_rank=64))
    for on_gpu in (True, False):
        made = engine_arguments(asked, on_gpu=on_gpu)
        assert [made[key] for key in ("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank")] == [
            True,
            12,
            12,
            64,
        ]


def test_a_name_with_an_adapter_needs_an_engine_that_carries_it():
    tuned = ServedName(name="a", adapter="models:/a@champion")
    with pytest.raises(UserError, match=r"engine\.adapters\.at_once=1"):
        check_names((tuned,), has_index=False)
    check_names((tuned,), has_index=False, carries_adapters=True)
    with pytest.raises(UserError, match="looks like an adapter's address"):
        check_names((ServedName(name="a@1"),), has_index=False, carries_adapters=True)


def test_a_replica_reads_an_adapter_once_at_its_first_request_and_says_when_it_cannot():
    """Nobody told this replica of the adapter: another one was asked to read it when it was loaded."""
    from components.serving.engines import ENGINE, Engine
    from components.serving.turns import Turns

    read, asked = [], []

    async def resolve(files):
        await asyncio.sleep(0.01)
        read.append(files.local_path)
        if files.local_path == "/broken":
            raise ValueError("Failed to load lora model: no weights")

    async def chat(request):
        async def answer():
            asked.append(request.model)
            yield ["data: [DONE]\n\n"]

        return answer()

    engine = Engine.__new__(Engine)
    engine._running = engine._started = engine._cancelled = 0
    engine._attaching, engine._attached = asyncio.Lock(), set()
    engine._turns, engine._scores_alone = Turns(), False
    engine.engine, engine.chat = SimpleNamespace(resolve_lora=resolve), chat
    body = {"messages": [{"role": "user", "content": "?"}], "stream": True}

    async def generate(adapter):
        return [part async for part in engine.generate(body, "chat", adapter)]

    async def several():
        good, bad = {"id": "d1", "folder": "/good"}, {"id": "d2", "folder": "/broken"}
        return await asyncio.gather(generate(good), generate(good), generate(None), generate(bad))

    first, second, bare, failed = asyncio.run(several())
    assert first == second == bare == [{"lines": ["data: [DONE]\n\n"]}]
    assert sorted(read) == ["/broken", "/good"] and sorted(asked) == ["d1", "d1", ENGINE]
    assert failed[0]["error"]["code"] == 500 and "/broken" not in failed[0]["error"]["message"]


def test_a_request_that_scores_its_prompt_is_alone_where_adapters_are_on_a_cpu(monkeypatch):
    from components.serving.engines import needs_turns, scores_prompt

    assert scores_prompt({"echo": True, "logprobs": 0}) and scores_prompt({"prompt_logprobs": 1})
    assert not scores_prompt({"echo": True}) and not scores_prompt({"logprobs": 3})
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert not needs_turns({"enable_lora": True})
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert needs_turns({"enable_lora": True}) and not needs_turns({})


@pytest.mark.parametrize(
    ("state", "free"), [("RUNNING", False), ("UNHEALTHY", False), ("DELETING", True), (None, True)]
)
def test_an_application_of_another_job_is_not_replaced(plan, monkeypatch, state, free):
    from ray import serve

    from components.serving.app import APPLICATION, serving

    found = {} if state is None else {APPLICATION: SimpleNamespace(status=state)}
    ended = []
    monkeypatch.setattr("components.serving.app.already_serves", lambda: True)
    monkeypatch.setattr("components.serving.app.shared_address", lambda: "http://here")
    monkeypatch.setattr("components.serving.app.build", lambda plan: plan)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=found))
    monkeypatch.setattr(serve, "run", lambda *_, **__: None)
    monkeypatch.setattr(serve, "delete", ended.append)
    if free:
        with serving(plan, "127.0.0.1", 0) as url:
            assert url == "http://here"
        assert ended == [APPLICATION]
    else:
        with pytest.raises(UserError, match="already serves an application named"), serving(plan, "127.0.0.1", 0):
            pass
        assert ended == []


def test_a_handles_deployment_runs_where_one_of_its_replicas_does(monkeypatch):
    from ray import serve

    from components.serving.address import runs

    handle = SimpleNamespace(app_name="a", deployment_name="engine")
    for states, expected in (({"RUNNING": 1}, True), ({"STARTING": 1}, False), ({}, False)):
        deployment = SimpleNamespace(replica_states=states)
        there = {"a": SimpleNamespace(deployments={"engine": deployment})}
        monkeypatch.setattr(serve, "status", lambda there=there: SimpleNamespace(applications=there))
        assert asyncio.run(runs(handle)) is expected
