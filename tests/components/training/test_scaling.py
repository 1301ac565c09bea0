"""The arithmetic of many GPUs, by hand and against the ZeRO paper's own figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from components.models.memory import ModelShape, training_bytes
from components.training.scaling import H100, L40S, exchanged_bytes, memory_bytes, scaled, table

ROOT = Path(__file__).resolve().parents[3]
EIGHT = ModelShape(8_030_261_248, 16_060_522_496, 32, 4096, 8, 128, 128_256, 131_072)  # Llama 3.1 8B
SEVENTY = ModelShape(70_553_706_496, 141_107_412_992, 80, 8192, 8, 128, 128_256, 131_072)  # Llama 3.1 70B
BARE = ModelShape(7_500_000_000, 15_000_000_000, 0, 0, 0, 0, 0, 0)  # without activations or logits


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 135), (1, 46.4), (2, 16.9), (3, 2.1)])
def test_state_of_the_papers_example(stage: int, gigabytes: float) -> None:
    """Figure 1 of Rajbhandari et al. 2020, 7.5 billion parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB.

    To these come 2 bytes a parameter, as our gradients are float32: 15 GB, from stage 2 on a 64th of that. What stage
    3 gathers is not in the figure.
    """
    gathered = 2_000_000_000 if stage == 3 else 0
    assert (memory_bytes(BARE, stage, 64, 0) - gathered) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_one_gpu_takes_what_the_planner_says() -> None:
    by_planner = training_bytes(EIGHT, trained=EIGHT.parameters, batch_tokens=4096)
    assert memory_bytes(EIGHT, 0, 1, 4096) == by_planner
    assert memory_bytes(EIGHT, 0, 512, 4096) == by_planner, "stage 0 divides nothing"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_gpus_never_take_more_memory_and_each_stage_less(stage: int) -> None:
    sizes = [memory_bytes(SEVENTY, stage, gpus, 2048) for gpus in (2, 8, 64, 512)]
    assert sizes == sorted(sizes, reverse=True)
    assert memory_bytes(SEVENTY, stage, 64, 2048) < memory_bytes(SEVENTY, stage - 1, 64, 2048)


def test_exchanged_bytes_by_hand() -> None:
    assert exchanged_bytes(BARE, 2, 64) == 2 * 2 * 7.5e9 * 63 / 64
    assert exchanged_bytes(BARE, 1, 64) == exchanged_bytes(BARE, 3, 64) == 1.5 * exchanged_bytes(BARE, 2, 64)
    assert exchanged_bytes(BARE, 0, 1) == 0


def test_a_step_by_hand() -> None:
    """64 x H100, 8 B: 6 x 8.03e9 x 8192 / (0.4 x 989e12) s, and 4 x 8.03e9 x 63 / 64 bytes at 50 GB/s."""
    row = scaled(EIGHT, H100, 64, 8192)
    assert row.stage == 2 and row.tokens_a_step == 64 * 8192
    assert row.compute_s == pytest.approx(0.998, abs=0.001)
    assert row.exchange_s == pytest.approx(0.632, abs=0.001)
    assert row.efficiency == pytest.approx(0.998 / 1.630, abs=0.001)
    assert row.tokens_per_s == pytest.approx(64 * 8192 / 1.630, rel=0.001)


def test_a_node_is_faster_within_than_between() -> None:
    assert scaled(EIGHT, H100, 8, 4096).exchange_s < scaled(EIGHT, H100, 16, 4096).exchange_s / 7
    slower = replace(L40S, between_bytes_s=L40S.between_bytes_s / 2)
    assert scaled(EIGHT, slower, 64, 2048).exchange_s == 2 * scaled(EIGHT, L40S, 64, 2048).exchange_s


def test_what_does_not_fit_says_so() -> None:
    assert scaled(SEVENTY, H100, 8, 2048).stage is None
    assert "| 8 | does not fit |" in table(SEVENTY, H100, 2048)[3]


_SHOWN = [(EIGHT, H100, 8192), (EIGHT, L40S, 2048), (SEVENTY, H100, 2048)]


@pytest.mark.parametrize(("shape", "hardware", "tokens"), _SHOWN)
def test_the_readme_shows_this_table(shape: ModelShape, hardware, tokens: int) -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(table(shape, hardware, tokens)) in readme
