"""The benchmark's command line, its arithmetic on made-up times, its parts, and (if asked for) a real run."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.benchmarks import environment as environments
from components.benchmarks import ppo
from components.benchmarks.compare import compare
from components.benchmarks.peer_trl_ppo import Clock
from components.benchmarks.preference import PreferenceTask
from components.benchmarks.processes import Arena, Ran
from components.config import CPU_ENV, UserError, load
from components.data.chat import ChatTemplate
from components.orchestration.entry import _split
from components.orchestration.memory import PeakMemory
from tests.workflows import warm
from workflows.benchmark import Benchmark

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "workflows/configs/benchmark/ppo.yaml"
PARTS = ("ours", "peer", "ratio", "ratio_low", "ratio_high")


def _run(*arguments: str, timeout_s: int = 120) -> tuple[int, dict, str]:
    command = [sys.executable, "-m", "workflows.benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the key 'name' is required"),
        (("pppo",), "'name' got 'pppo': input should be 'ppo', 'preference' or 'retrieval'"),
        (("ppo", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("ppo", "more"), "the configuration file more does not exist"),
        (("ppo", "smaples=2"), "did you mean 'samples'?"),
        (("ppo", "prompts=6"), "prompts 6 is not a multiple of minibatches 4"),
        (("ppo", "iterations=0"), "'ppo.iterations' got 0"),
        (("ppo", "ppo.warmup=0"), "'ppo.warmup' got 0"),
        (("ppo", "stroage=x"), "unknown key 'stroage': did you mean 'storage'?"),
        (("retrieval", "vectors=10"), "vectors=10 are too few to need an index"),
        (("preference", "pears=x"), "unknown key 'preference.pears': did you mean 'pairs'?"),
        (("preference", "batch_size=6", "micro_batch_size=4"), "batch_size 6 is not a multiple of micro_batch_size 4"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(arguments: tuple[str, ...], words: str, tmp_storage: Path) -> None:
    code, line, errors = warm.ask("benchmark", *arguments, f"storage={tmp_storage}")
    assert (code, line["status"]) == (2, "invalid")
    assert words in line["outputs"]["error"]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ppo"], (None, ["name=ppo"])),
        (["ppo", "a=1"], (None, ["name=ppo", "a=1"])),
        (["ppo", "own.yaml", "a=1"], ("own.yaml", ["name=ppo", "a=1"])),
        (["own.yaml", "a=1"], ("own.yaml", ["a=1"])),
        (["a=1"], (None, ["a=1"])),
    ],
)
def test_a_bare_first_word_is_the_benchmarks_name(arguments: list[str], expected: tuple) -> None:
    assert _split(arguments, "name") == (set(), *expected)


def test_the_keys_of_the_named_section_need_no_prefix() -> None:
    flat = load(Benchmark, None, ["name=preference", "steps=3", "preference.warmup=1", "model=m"])
    assert flat == load(Benchmark, None, ["name=preference", "preference.steps=3", "preference.warmup=1", "model=m"])
    assert (flat.preference.steps, flat.preference.warmup, flat.model) == (3, 1, "m")
    assert load(Benchmark, None, ["name=ppo", "warmup=2"]).preference == PreferenceTask()


def test_other_workflows_take_a_bare_word_for_a_file() -> None:
    assert _split(["ppo", "a=1"]) == (set(), "ppo", ["a=1"])


def test_a_ratio_says_how_many_times_less_we_take() -> None:
    found = compare("c", [2.0, 2.0, 2.0], [3.0, 5.0, 4.0], work=16)
    assert list(found) == [f"c.{part}" for part in PARTS]
    assert (found["c.ours"], found["c.peer"], found["c.ratio"]) == (8.0, 4.0, 2.0)
    costs = compare("c", [2.0], [5.0])
    assert [costs[f"c.{part}"] for part in PARTS] == [2.0, 5.0, 2.5, 2.5, 2.5]


def test_the_interval_is_the_bootstraps() -> None:
    """Two draws of {2, 4} have the mean 2, 3 or 4 with probability 1/4, 1/2, 1/4: the 2.5 % quantile is 2, the other 4.

    Of {1} x 3 there is one mean only. With both sides spread it must agree with NumPy's own draws.
    """
    found = compare("c", [1.0, 1.0, 1.0], [2.0, 4.0])
    assert (found["c.ratio"], found["c.ratio_low"], found["c.ratio_high"]) == (3.0, 2.0, 4.0)

    import numpy as np

    draws = np.random.default_rng(1)
    ours, peer = draws.normal(10, 1, 12), draws.normal(25, 3, 12)
    means = [side[draws.integers(0, 12, (20_000, 12))].mean(1) for side in (peer, ours)]
    expected = np.percentile(means[0] / means[1], [2.5, 97.5])
    found = compare("c", list(ours), list(peer))
    assert [found["c.ratio_low"], found["c.ratio_high"]] == pytest.approx(list(expected), rel=0.01)
    assert found == compare("c", list(ours), list(peer))


def _measured(seconds: list[float], peak: int) -> ppo.Measured:
    phases = [{"generate": own / 4, "update": own / 2} for own in seconds]
    return ppo.Measured(seconds, phases, [peak] * len(seconds), 2 * peak, {"python": 2 * peak})


def test_the_metrics_hold_every_part_of_every_comparison() -> None:
    task = ppo.PpoTask()
    found = ppo.figures(task, _measured([4.0, 4.0, 4.0], 100), _measured([8.0, 10.0, 12.0], 300))
    comparisons = {name.removesuffix(".ratio") for name in found if name.endswith(".ratio")}
    assert comparisons == {"ppo.samples_per_s", "ppo.peak_memory"}
    assert all(f"{comparison}.{part}" in found for comparison in comparisons for part in PARTS)
    assert (found["ppo.samples_per_s.ours"], found["ppo.samples_per_s.ratio"]) == (4.0, 2.5)
    assert (found["ppo.peak_memory.peer"], found["ppo.peak_memory.ratio"]) == (300.0, 3.0)
    assert (found["seconds.peer"], found["seconds.peer.generate"], found["seconds.ours.update"]) == (10.0, 2.5, 2.0)
    assert found["whole_peak.peer"] == 600.0
    assert len(json.dumps(found)) < 4000 and all(isinstance(value, float) for value in found.values())


def test_warm_up_and_the_runs_summary_do_not_count() -> None:
    task = ppo.PpoTask(warmup=1, iterations=2)
    curves = {"time/iteration": [(0, 9.0), (1, 7.0), (2, 3.0), (3, 4.0)], "time/sync": [(1, 0.5), (2, 0.1), (3, 0.2)]}
    iterations = ppo.our_iterations(task, curves)
    assert [own["seconds"] for own in iterations] == [7.0, 3.0, 4.0]
    found = ppo.measured(task, iterations, Ran([], [50, 10, 20], 60, {"python": 60}))
    assert (found.seconds, found.peaks, found.whole_peak) == ([3.0, 4.0], [10, 20], 60)
    assert found.phases == [{"sync": 0.1}, {"sync": 0.2}]


def test_both_sides_get_the_same_task(tmp_path: Path, tiny_model_dir: Path) -> None:
    from components.data import store
    from components.models.rewards import RewardInfo
    from workflows.train_ppo import TrainPpo

    task = ppo.PpoTask(prompts=4, samples=2, minibatches=2, prompt_tokens=40, new_tokens=9, iterations=1)
    inputs = ppo.make_inputs(task, tiny_model_dir, "digest", tmp_path, threads=1, seed=3)
    ours = load(TrainPpo, None, ppo.our_arguments(task, inputs, tmp_path))
    ours.check(1)
    spec = json.loads(Path(ppo.trl_arguments(task, inputs, tmp_path)[-1]).read_text())
    assert spec["batch"] == ours.rollout.prompts * ours.rollout.samples == 8
    assert spec["new_tokens"] == ours.rollout.max_new_tokens == ours.rollout.min_new_tokens == 9
    assert (spec["epochs"], spec["minibatches"]) == (ours.update.epochs, ours.update.minibatches) == (4, 2)
    assert (spec["updates"], spec["dtype"]) == (ours.update.iterations, ours.optim.dtype)
    assert spec["kl_coefficient"] == ours.kl.coefficient and spec["learning_rate"] == ours.optim.learning_rate
    template = ChatTemplate.from_folder(tiny_model_dir)
    assert spec["prompts"] == [template.prompt_ids(row["prompt"]) for row in store.read(inputs.table)]
    assert RewardInfo.read(inputs.reward).template_digest == template.digest


def test_prompts_have_exactly_the_length_that_was_asked_for(tiny_model_dir: Path) -> None:
    template = ChatTemplate.from_folder(tiny_model_dir)
    texts = ppo.make_prompts(template, 6, 50, seed=0)
    assert {len(template.prompt_ids([{"role": "user", "content": text}])) for text in texts} == {50}
    assert len(set(texts)) == 6
    with pytest.raises(UserError, match="prompt_tokens=8: raise it"):
        ppo.make_prompts(template, 1, 8, seed=0)


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path, tmp_path, 3, lambda pid: PeakMemory(pid, 0.02))


def test_a_sides_memory_is_its_own_and_each_iterations(arena: Arena) -> None:
    script = (
        "import sys, time\n"
        "say = lambda n: print(f'(pid=1) progress {n}/2 iterations (reward 1)', file=sys.stderr, flush=True)\n"
        "time.sleep(1); say(1); time.sleep(3)\n"  # long enough to be looked at on a busy machine
        "kept = b'x' * 300_000_000; time.sleep(3); say(2); print('{}')\n"
    )
    ran = arena.run("side", [sys.executable, "-c", script])
    assert ran.lines == ["{}"]
    assert len(ran.laps) == 2
    assert 300e6 - 32 * 2**20 < ran.laps[1] == ran.peak < 400e6  # so much too low is what the sampler states
    assert 0 < ran.laps[0] < 100e6
    assert sum(ran.peak_by_process.values()) == ran.peak and len(ran.peak_by_process) == 1


def test_a_side_runs_as_training_does(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    ran = arena.run("side", [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"])
    found = json.loads(ran.lines[0])
    assert CPU_ENV.items() <= found.items()
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    assert not {"RAY_ADDRESS", "PYTHONPATH"} & set(found)


def test_a_side_that_is_not_to_keep_memory_is_told_nothing_of_it(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CPU_ENV.items():
        monkeypatch.setenv(name, value)
    print_names = [sys.executable, "-c", "import json, os; print(json.dumps(list(os.environ)))"]
    ran = arena.run("side", print_names, keeps_memory=False)
    assert not [name for name in json.loads(ran.lines[0]) if name.startswith("MALLOC")]


def test_a_side_that_fails_is_named_with_its_last_words(arena: Arena) -> None:
    with pytest.raises(RuntimeError, match=r"side ended with code 3, see .*side\.log: .*out of luck"):
        arena.run("side", [sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])


def test_the_peers_clock_tells_phases_apart() -> None:
    clock = Clock()
    draw = clock.timed(lambda: time.sleep(0.02), lambda: "generate")
    train = clock.timed(lambda: time.sleep(0.01), lambda: "update_forward")
    for _ in range(2):  # the second lap begins where its own first draw does
        time.sleep(0.05)
        draw()
        train()
        time.sleep(0.03)
        train()
        lap = clock.lap()
        assert set(lap["phases"]) == {"generate", "update_forward", "update"}
        assert lap["seconds"] == pytest.approx(0.07, abs=0.02)
        assert lap["phases"]["update"] == pytest.approx(0.05, abs=0.015)
        assert lap["phases"]["update_forward"] == pytest.approx(0.02, abs=0.01)


@pytest.fixture
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let pip know one package only, which is empty; return its pin."""
    (tmp_path / "wheels").mkdir()
    info = "emptiness-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "wheels" / "emptiness-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: emptiness\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return "emptiness==1.0"


def test_an_environment_is_made_once_and_whole(own_index: str, tmp_path: Path) -> None:
    make: Callable[[], Path] = lambda: environments.environment("empty", [own_index], tmp_path)  # noqa: E731
    python = make()
    folder = python.parents[1]
    assert environments.installed(python).split() == [own_index]
    witness = folder / "witness"
    witness.touch()
    assert make() == python and witness.exists()
    (folder / "complete").unlink()  # as after a kill
    assert make() == python and not witness.exists()


def test_an_environment_that_cannot_be_made_is_one_sentence_and_leaves_nothing(own_index: str, tmp_path: Path) -> None:
    pins = [own_index, "no-such-package==2.0"]
    with pytest.raises(UserError, match=r"could not make the environment of odd .*no-such-package.*check the network"):
        environments.environment("odd", pins, tmp_path)
    assert not environments.folder_of("odd", pins, tmp_path).exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    os.environ.get("RAYLIGN_BENCHMARK") != "1",
    reason="installs a peer (1.5 GB) and measures for minutes: set RAYLIGN_BENCHMARK=1",
)
def test_a_real_run_measures_both_sides(tmp_path: Path) -> None:
    small = ("prompts=4", "minibatches=2", "epochs=1", "iterations=2", "prompt_tokens=64", "new_tokens=16")
    storage = os.environ.get("RAYLIGN_BENCHMARK_STORAGE", str(tmp_path))
    code, line, errors = _run("ppo", CONFIG, f"storage={storage}", *small, timeout_s=1400)
    assert code == 0, errors
    metrics, measurements = line["metrics"], json.loads(Path(line["outputs"]["measurements"]).read_text())
    for comparison in ("ppo.samples_per_s", "ppo.peak_memory"):
        assert 0 < metrics[f"{comparison}.ratio_low"] <= metrics[f"{comparison}.ratio"]
        assert metrics[f"{comparison}.ratio"] <= metrics[f"{comparison}.ratio_high"]
    for side in ("ours", "peer"):
        parts = sum(metrics[f"seconds.{side}.{phase}"] for phase in ("generate", "logprobs", "score", "update"))
        assert 0.5 * metrics[f"seconds.{side}"] < parts <= metrics[f"seconds.{side}"]
        assert len(measurements[side]["seconds"]) == len(measurements[side]["peaks"]) == 2
    assert "trl==1.12.0" in measurements["peer_packages"]
