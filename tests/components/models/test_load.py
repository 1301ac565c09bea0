"""Loading: number formats, adapters, padding."""

import os
from pathlib import Path

import pytest
import torch

from components.config import UserError
from components.models import load


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_a_model_comes_in_the_format_asked_for(tiny_model_dir: Path, dtype: str, expected: torch.dtype) -> None:
    model = load.load_model(tiny_model_dir, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not model.training


def test_stored_keeps_the_folders_format_and_auto_takes_the_machines(tiny_model_dir: Path) -> None:
    assert load.load_model(tiny_model_dir, "stored").dtype == torch.float32
    if not torch.cuda.is_available():
        assert load.load_model(tiny_model_dir).dtype == load.cpu_dtype()


def test_bfloat16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_cpu_has", lambda flag: flag == "amx_bf16")
    assert load.cpu_dtype() == torch.bfloat16
    monkeypatch.setattr(load, "_cpu_has", lambda flag: False)
    assert load.cpu_dtype() == torch.float32


def test_missing_folders_are_the_users_to_correct(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no adapter at"):
        load.load_model(tiny_model_dir, "float32", adapter=tmp_path)


def test_an_adapter_is_attached(tiny_model_dir: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load.load_model(tiny_model_dir, "float32"), config).save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain = load.load_model(tiny_model_dir, "float32")(ids).logits
        adapted = load.load_model(tiny_model_dir, "float32", tmp_path / "adapter")(ids).logits
    assert not torch.allclose(plain, adapted)


def test_tokenizers_pad_on_the_right_and_always_can(tiny_model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = None
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    loaded = load.load_tokenizer(tmp_path)
    assert (loaded.padding_side, loaded.pad_token) == ("right", loaded.eos_token)


def test_threads_follow_what_ray_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert load.set_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert load.set_threads() == len(os.sched_getaffinity(0))
        assert load.set_threads(1) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("flags", "engine", "served"),
    [({"avx2"}, "float32", torch.float32), ({"avx2", "avx512_bf16"}, "bfloat16", torch.bfloat16)],
)
def test_a_cpu_serves_what_it_multiplies(
    flags: set[str], engine: str, served: torch.dtype, tiny_model_dir: Path, tmp_path: Path, monkeypatch
) -> None:
    """Engines and the gate that measures for them agree; what is stored in float32 stays so."""
    monkeypatch.setattr(load, "_cpu_has", lambda flag: flag in flags)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for stored, expected in (("bfloat16", served), ("float32", torch.float32)):
        load.load_model(tiny_model_dir, stored).save_pretrained(tmp_path / stored)
        load.load_tokenizer(tiny_model_dir).save_pretrained(tmp_path / stored)
        assert load.load_model(tmp_path / stored, "served").dtype == expected
    assert load.engine_dtype("auto", on_gpu=False) == engine
    assert (load.engine_dtype("auto", on_gpu=True), load.engine_dtype("bfloat16", on_gpu=False)) == ("auto", "bfloat16")


def test_a_process_computes_on_a_gpu_that_is_its_own(ray_cluster: None, monkeypatch) -> None:
    """Ray lets a worker that asked for none see every GPU."""
    import ray

    def in_a_worker() -> tuple[bool, str]:
        import torch

        from components.models import load

        known = torch.cuda.is_available
        torch.cuda.is_available = lambda: True  # this process may be another task's next
        try:
            return load.has_gpu(), load.torch_device()
        finally:
            torch.cuda.is_available = known

    assert ray.get(ray.remote(in_a_worker).remote()) == (False, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (load.has_gpu(), load.torch_device(), load.torch_dtype()) == (True, "cuda", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (load.has_gpu(), load.torch_device()) == (False, "cpu")
