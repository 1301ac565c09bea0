"""The optimizer of a run, DeepSpeed's: two workers do what one does, and a step that is not finite does nothing."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.training.ppo.learner import groups_of, rate_after_idle, schedule
from components.training.ppo.settings import PpoOptimConfig
from tests.components.training.ppo import learner_processes as script


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """What one process and what two processes did."""
    folder = tmp_path_factory.mktemp("learner")
    return {count: run(count, folder / f"{count}.json") for count in (1, 2)}


def run(processes: int, out: Path) -> dict:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    own = {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [*launch, script.__file__, str(out)]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def plain() -> tuple[list[float], list[float]]:
    """Norms and weights after the same steps by torch alone, in one process: mean loss, clipped norm, AdamW."""
    module = script.Toy(torch.float32)
    groups = [
        {"params": module.policy.parameters(), "lr": 0.05},
        {"params": module.value_head.parameters(), "lr": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=PpoOptimConfig().weight_decay)
    norms = []
    for step in range(script.STEPS):
        rows = torch.randn(script.ROWS, 4, generator=torch.Generator().manual_seed(step))
        (module(rows) / script.ROWS).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
    return norms, [x for part in (module.policy, module.value_head) for x in part.weight.flatten().tolist()]


@pytest.mark.parametrize("processes", [1, 2])
def test_so_many_workers_make_the_steps_that_torch_alone_makes(found, processes) -> None:
    norms, weights = plain()
    ours = found[processes]["torch.float32"]
    assert ours["norms"] == pytest.approx(norms, rel=1e-5) and max(norms) > 0.5  # so that clipping shows
    assert ours["weights"] == pytest.approx(weights, abs=1e-5)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_does(found, processes, dtype) -> None:
    ours = found[processes][dtype]
    assert not ours["nan"] and ours["kept"]
    assert ours["goes_on"] != ours["weights"] and all(map(math.isfinite, ours["goes_on"]))


def test_who_keeps_the_others_waiting_is_named(found) -> None:
    assert (found[1]["sum"], found[2]["sum"]) == ([1.0, 0.0], [2.0, 1.0])
    assert found[1]["late"] == ""
    said = found[2]["late"]
    assert "within 1 s (four times rollout.deadline_s)" in said and "Ranks 1 failed" in said
    assert "0 on " in said and "1 on " in said


def test_b_matrices_learn_faster_for_policy_and_critic_alike() -> None:
    module = torch.nn.ModuleDict({"trunk": torch.nn.ModuleDict(), "value_head": torch.nn.Linear(2, 1)})
    for part in ("lora_A", "lora_B"):
        module["trunk"][part] = torch.nn.ModuleDict(
            {who: torch.nn.Linear(2, 2, bias=False) for who in ("policy", "critic")}
        )
    module["trunk"]["frozen"] = torch.nn.Linear(2, 2).requires_grad_(False)
    optim = PpoOptimConfig(learning_rate=1e-4, critic_learning_rate=3e-4)
    names = {weight: name for name, weight in module.named_parameters()}

    def told(ratio: float) -> list[tuple[float, list[str]]]:
        return [(group["lr"], sorted(names[w] for w in group["params"])) for group in groups_of(module, optim, ratio)]

    head = ["value_head.bias", "value_head.weight"]
    trunk = {(ab, who): f"trunk.lora_{ab}.{who}.weight" for ab in "AB" for who in ("policy", "critic")}
    assert told(1.0) == [
        (1e-4, [trunk["A", "policy"], trunk["B", "policy"]]),
        (3e-4, [trunk["A", "critic"], trunk["B", "critic"], *head]),
    ]
    assert told(16.0) == [
        (1e-4, [trunk["A", "policy"]]),
        (pytest.approx(16e-4), [trunk["B", "policy"]]),
        (3e-4, [trunk["A", "critic"], *head]),
        (pytest.approx(48e-4), [trunk["B", "critic"]]),
    ]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant_with_warmup", [0.1, 0.5, 1.0, 1.0]),
        ("linear", [0.1, 0.5, 1.0, 0.5]),
        ("cosine", [0.1, 0.5, 1.0, 0.5]),
    ],
)
def test_the_schedule_by_hand(name, rates) -> None:
    """A fifth of the run to warm up; never 0 at the start, half way down at half of what is left."""
    optim = PpoOptimConfig(schedule=name, warmup=0.2)
    assert [schedule(optim, at) for at in (0.0, 0.1, 0.2, 0.6)] == pytest.approx(rates)


@pytest.mark.parametrize("idle", [0, 1, 7, 160])
def test_a_policy_that_was_idle_learns_as_if_it_began(idle: int) -> None:
    """Adam with ``idle`` steps of no gradient before, and Adam without: the same way."""
    gradients = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))

    def way(idle: int) -> list[torch.Tensor]:
        weight, seen = torch.nn.Parameter(torch.ones(5)), []
        optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.0)
        for step in range(idle + len(gradients)):
            weight.grad = gradients[step - idle].clone() if step >= idle else torch.zeros(5)
            optimizer.param_groups[0]["lr"] = 1e-2 * rate_after_idle(step, idle)
            optimizer.step()
            seen.append(weight.detach().clone())
        return seen

    torch.testing.assert_close(torch.stack(way(idle)[idle:]), torch.stack(way(0)))
