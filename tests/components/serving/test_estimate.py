"""What a plan says that serving takes, against the headers of a tiny model."""

import pytest

from components.models import load
from components.models.memory import kv_cache_bytes, read_shape
from components.serving import estimate
from components.serving.settings import AdapterOptions, EngineOptions


@pytest.mark.parametrize("size", [2, 4])
def test_the_estimate_counts_room_for_adapters(tiny_model_dir, size):
    """Rank 16 on 64+64, 64+32, 64+32, 64+64 and thrice 64+128 rows and columns in two blocks, 2 + 8 times."""
    one = 2 * 16 * (128 + 96 + 96 + 128 + 3 * 192)
    found = estimate._adapters_gib(tiny_model_dir, AdapterOptions(at_once=2), size)
    assert found == pytest.approx(10 * size * one / 2**30)
    assert estimate._adapters_gib(tiny_model_dir, AdapterOptions(), size) == 0


@pytest.mark.parametrize(
    ("dtype", "flag", "size"), [("float32", True, 4), ("bfloat16", False, 2), ("auto", True, 2), ("auto", False, 4)]
)
def test_weights_and_cache_are_as_wide_as_the_engine_computes(tiny_model_dir, monkeypatch, dtype, flag, size):
    monkeypatch.setattr(load, "_cpu_has", lambda _: flag)
    monkeypatch.setattr(estimate, "_PROCESSES_GIB", 0.0)
    monkeypatch.setattr("components.models.memory._count", lambda info: 2**24)  # the tiny one's would round to nothing
    shape = read_shape(tiny_model_dir)
    found = estimate.estimate(str(tiny_model_dir), EngineOptions(dtype=dtype, gpu=False))
    tensors = shape.weight_bytes // 4 // 2**24  # it is stored in float32
    assert f"({tensors * size * 2**24 / 2**30:.2f} GiB weights" in found["memory"]
    assert found["key-value cache"].startswith(f"{2**30 // kv_cache_bytes(shape, 1, bytes_per_value=size)} tokens")


def test_quantized_weights_keep_their_width_in_every_engine(tiny_model_dir, tmp_path):
    from components.models.memory import engine_bytes
    from components.quantization import menu

    menu.quantize(tiny_model_dir, tmp_path / "int8", [], menu.MethodConfig(smoothing=0))
    narrow, wide = engine_bytes(tmp_path / "int8", 2), engine_bytes(tmp_path / "int8", 4)
    stored = read_shape(tmp_path / "int8").weight_bytes
    assert narrow < wide == stored < read_shape(tiny_model_dir).weight_bytes
