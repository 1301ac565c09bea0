"""The preference benchmark: the same pairs and settings on both sides, its arithmetic, and the same losses."""

import json
from pathlib import Path

import pytest

from components.benchmarks import peer_trl_dpo, preference
from components.benchmarks.compare import compare
from components.benchmarks.loss_figure import loss_figure
from components.benchmarks.preference import Measured, Phase, PreferenceTask
from components.benchmarks.preference_pairs import make_pairs, plain_text, shuffled_within
from components.benchmarks.processes import Arena, Ran, Setting
from components.config import UserError, load
from components.data.chat import ChatTemplate
from components.training.preference import make_trainer
from components.training.preference_losses import LossConfig
from components.training.preference_rows import read, with_reference
from components.training.reference import score_pairs
from components.training.rows import batch_order, write_rows
from components.training.settings import Recipe, trainer_arguments
from tests.components.training.several_processes import Log
from workflows.train_dpo import TrainDpo

PARTS = ("ours", "peer", "ratio", "ratio_low", "ratio_high")
TASK = PreferenceTask(batch_size=4, micro_batch_size=2, warmup=1, steps=3, max_tokens=200)


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pairs of many lengths, and one that is too long."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Which function joins {number} path names?" + " Say it." * (number % 4),
            "chosen": "It joins path names [1]." * (1 + number % 3),
            "rejected": "I don't know." + " No." * (number % 5),
        }
        for number in range(30)
    ]
    rows.append({"prompt": "Why?", "chosen": "Because. " * 200, "rejected": "No."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_of(pairs_file: Path, model: Path, folder: Path, **changes: int) -> preference.Pairs:
    how = {"steps": 4, "batch_size": 4, "max_tokens": 200, "window": 1, "seed": 3, **changes}
    return make_pairs(pairs_file, model, f"{folder}/lancedb#pairs", **how)


def setting_of(folder: Path, model: Path) -> Setting:
    arena = Arena(folder, folder, 1, lambda pid: None)  # type: ignore[arg-type, return-value]
    return Setting(arena, ["train_dpo"], model, "digest", folder, seed=3)


def our_config(phase: Phase, setting: Setting) -> TrainDpo:
    return load(TrainDpo, None, preference.our_arguments(TASK, phase, setting, setting.arena.folder / "ours"))


def our_rows(phase: Phase, config: TrainDpo, model: Path) -> tuple[list[dict], list[int]]:
    """The rows that our job reads, and the order in which it takes them."""
    template = ChatTemplate.from_folder(model)
    data = read(phase.pairs.table, template, LossConfig(), max_tokens=config.max_tokens, size=0, seed=0).training
    optim = config.optim
    return data, batch_order(data.lengths, phase.pairs.steps, optim.batch_size, config.seed, window=optim.length_window)


@pytest.mark.parametrize("window", [1, 8])
def test_both_sides_take_the_same_ids_in_the_same_steps(
    pairs_file: Path, tiny_model_dir: Path, tmp_path: Path, window: int
) -> None:
    task = TASK.model_copy(update={"length_window": window})
    phase = Phase("lora", "float32", pairs_of(pairs_file, tiny_model_dir, tmp_path, window=window))
    setting = setting_of(tmp_path, tiny_model_dir)
    arguments = preference.our_arguments(task, phase, setting, tmp_path)
    data, order = our_rows(phase, load(TrainDpo, None, arguments), tiny_model_dir)
    tokenizer = ChatTemplate.from_folder(tiny_model_dir).tokenizer
    theirs = [
        tuple(tuple(tokenizer(text["prompt"] + text[side])["input_ids"]) for side in ("chosen", "rejected"))
        for text in phase.pairs.texts
    ]
    ours = [
        tuple((*data.rows[row]["prompt_ids"], *data.rows[row][f"{side}_ids"]) for side in ("chosen", "rejected"))
        for row in order
    ]
    assert len(ours) == len(theirs) == 16 and len(set(ours)) == 16
    steps = [(ours[at : at + 4], theirs[at : at + 4]) for at in range(0, 16, 4)]
    assert all(set(own) == set(other) for own, other in steps)
    assert any(own != other for own, other in steps)  # by length, and by chance


def test_a_pair_that_one_text_tokenizes_otherwise_is_left_out(tiny_model_dir: Path) -> None:
    template = ChatTemplate.from_folder(tiny_model_dir)
    row = {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "So."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    text = plain_text(template, row, 100)
    assert text is not None and text["prompt"].endswith("assistant\n") and text["chosen"] == "So.<|im_end|>"
    assert plain_text(template, row, 10) is None

    class Merging:
        """A tokenizer that takes the newline before an answer and its first letter for one token."""

        def __getattr__(self, name: str):
            return getattr(template.tokenizer, name)

        def __call__(self, text: str, **options):
            return template.tokenizer(text.replace("assistant\nS", "assistant S"), **options)

    merged = ChatTemplate(Merging())
    assert plain_text(merged, row, 100) is None


def test_too_few_pairs_are_refused_with_what_to_change(pairs_file: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 30 pairs of at most 200 tokens, and 8 steps of 4 need 32: give fewer"):
        pairs_of(pairs_file, tiny_model_dir, tmp_path, steps=8)
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        pairs_of(tmp_path / "nowhere.jsonl", tiny_model_dir, tmp_path)


def test_chance_changes_the_order_within_steps_only() -> None:
    ids = [f"p{number}" for number in range(12)]
    drawn = shuffled_within(ids, 4, seed=1)
    assert drawn != ids and drawn == shuffled_within(ids, 4, seed=1)
    assert [set(drawn[at : at + 4]) for at in (0, 4, 8)] == [set(ids[at : at + 4]) for at in (0, 4, 8)]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_losses_are_trls_own(adapter: str, pairs_file: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Four steps through both real trainers, in float32: as it comes, tuned, and ours as its job would set it up.

    Steps are large, so that a wrong batch, order, seed, scale or schedule would show: after the first update losses
    are far from ln 2.
    """
    phase = Phase(adapter, "float32", pairs_of(pairs_file, tiny_model_dir, tmp_path))  # type: ignore[arg-type]
    setting = setting_of(tmp_path, tiny_model_dir)
    config = our_config(phase, setting)
    data, order = our_rows(phase, config, tiny_model_dir)

    curves = {}
    for peer in preference.PEERS:
        spec = json.loads(Path(preference.trl_arguments(TASK, phase, setting, peer)[-1]).read_text())
        lines: list[str] = []
        trainer, seconds = peer_trl_dpo.build({**spec, "learning_rate": 1e-2}, peer_trl_dpo.watcher(lines.append))
        assert (seconds > 0) == (peer == "tuned")
        trainer.train()
        curves[peer] = [json.loads(line)["loss"] for line in lines]

    from components.models.load import load_model

    scores = score_pairs(load_model(tiny_model_dir, "float32"), data.rows, 2, 2048)
    known = {row["pair_id"]: own for row, own in zip(data.rows, scores, strict=True)}
    rows = with_reference(data, known).rows
    recipe = Recipe.of(config)
    arguments = trainer_arguments(recipe, bf16=False, steps=phase.pairs.steps, checkpoints=tmp_path / "checkpoints")
    del arguments["deepspeed"]
    log = Log()
    payload = {
        "loss": config.loss.model_dump(),
        "model": str(tiny_model_dir),
        "dtype": "float32",
        "paired": True,
        "adapter": recipe.adapter.model_dump(),
        "train": write_rows([rows[row] for row in order], tmp_path / "rows.parquet"),
        "eval": None,
        "arguments": {**arguments, "learning_rate": 1e-2, "save_strategy": "no"},
    }
    make_trainer(payload, [log]).train()
    curves["ours"] = [figures["train/loss"] for figures in log.steps]
    assert all(len(losses) == 4 for losses in curves.values())
    assert min(curves["ours"]) < 0.6
    for peer in preference.PEERS:
        assert curves["ours"] == pytest.approx(curves[peer], abs=1e-4)


def test_what_both_sides_are_told_is_the_same(pairs_file: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    phase = Phase("lora", "float32", pairs_of(pairs_file, tiny_model_dir, tmp_path))
    setting = setting_of(tmp_path, tiny_model_dir)
    ours = our_config(phase, setting)
    arguments = preference.trl_arguments(TASK, phase, setting, "as_it_comes")
    spec = json.loads(Path(arguments[-1]).read_text())
    assert arguments[0] == "-P"  # else the peer could import what stands beside its script
    assert not spec["precomputes"] and ours.loss == LossConfig(name="sigmoid", beta=spec["beta"])
    assert (spec["learning_rate"], ours.optim.warmup) == (ours.optim.learning_rate, 0)
    assert (spec["batch_size"], spec["micro_batch_size"]) == (ours.optim.batch_size, ours.optim.micro_batch_size)
    assert spec["adapter"] == {"r": ours.adapter.rank, "lora_alpha": ours.adapter.alpha}
    assert (spec["dtype"], spec["seed"], spec["model"]) == (ours.optim.dtype, ours.seed, ours.model)


def measured_of(seconds: list[float], peak: int, losses: list[float], pairs: int = 0) -> Measured:
    return Measured(losses, seconds, [peak] * len(seconds), 2 * peak, {}, 4.0, pairs)


def test_the_metrics_hold_every_part_of_every_comparison() -> None:
    found = {
        "none-bfloat16": {
            "ours": measured_of([2.0, 4.0], 100, [0.69, 0.6, 0.5], 24),
            "tuned": measured_of([3.0, 6.0], 150, [0.69, 0.62, 0.51], 24),
            "as_it_comes": measured_of([6.0, 12.0], 300, [0.69, 0.62, 0.51]),
        },
        "none-float32": {
            "ours": measured_of([1.0], 100, [0.69, 0.6]),
            "tuned": measured_of([1.0], 100, [0.69, 0.6001]),
        },
    }
    task = PreferenceTask(adapters=("none",), batch_size=6, micro_batch_size=3)
    made = preference.figures(task, found, "bfloat16")
    comparisons = {name.removesuffix(".ratio") for name in made if name.endswith(".ratio")}
    what = ("pairs_per_s", "peak_memory")
    assert comparisons == {f"dpo.full.{peer}.{of}" for peer in preference.PEERS for of in what}
    assert all(f"{comparison}.{part}" in made for comparison in comparisons for part in PARTS)
    assert (made["dpo.full.tuned.pairs_per_s.ours"], made["dpo.full.tuned.pairs_per_s.ratio"]) == (2.0, 1.5)
    # Each step took TRL 1.5 times as long: that steps differ says nothing of the ratio.
    assert made["dpo.full.tuned.pairs_per_s.ratio_low"] == made["dpo.full.tuned.pairs_per_s.ratio_high"] == 1.5
    assert (made["dpo.full.as_it_comes.pairs_per_s.ratio"], made["dpo.full.as_it_comes.peak_memory.ratio"]) == (3, 3)
    assert made["loss_gap.full.bfloat16"] == pytest.approx(0.02)
    assert made["loss_gap.full.float32"] == pytest.approx(1e-4)
    assert made["reference_pairs_per_s.full.tuned"] == 6.0
    assert "reference_pairs_per_s.full.as_it_comes" not in made


def test_paired_iterations_are_drawn_together() -> None:
    apart, together = (
        {paired: compare("c", [1.0, 9.0], [2.0, 18.0], paired=paired)}[paired] for paired in (False, True)
    )
    assert together["c.ratio"] == together["c.ratio_low"] == together["c.ratio_high"] == 2.0
    assert apart["c.ratio"] == 2.0 and apart["c.ratio_low"] < 1 < 3 < apart["c.ratio_high"]


def test_warm_up_does_not_count_but_its_losses_are_kept() -> None:
    phase = Phase("none", "bfloat16", preference.Pairs("t", [], 3, 10))
    steps = [{"loss": 0.7, "seconds": 9.0}, {"loss": 0.6, "seconds": 2.0}, {"loss": 0.5, "seconds": 3.0}]
    found = preference.measured(
        PreferenceTask(warmup=1), phase, steps, Ran([], [50, 10, 20], 60, {"python": 60}), 4.0, 24
    )
    assert found == Measured([0.7, 0.6, 0.5], [2.0, 3.0], [10, 20], 60, {"python": 60}, 4.0, 24)
    with pytest.raises(AssertionError, match="2 steps, 3 peaks for 3 steps"):
        preference.measured(PreferenceTask(), phase, steps[1:], Ran([], [50, 10, 20], 60, {"python": 60}), 4.0, 24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 6}, "batch_size 6 is not a multiple of micro_batch_size 4"),
        ({"parity_steps": 1}, "parity_steps=1 sees no update"),
        ({"adapters": ("lora", "lora")}, "names one twice"),
    ],
)
def test_a_task_that_cannot_be_compared_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PreferenceTask(**changes).check()


def test_the_plot_has_a_curve_for_each_side_of_each_phase() -> None:
    curve = [0.69, 0.6]
    losses = {"none-bfloat16": {"ours": curve, "tuned": curve, "as_it_comes": curve}, "lora-float32": {}}
    losses["lora-float32"] = {"ours": curve, "tuned": [0.69, 0.5]}
    panels = [axes for axes in loss_figure(losses).axes if axes.lines]
    assert [len(axes.lines) for axes in panels] == [3, 2]
    assert [list(line.get_ydata()) for line in panels[1].lines] == [curve, [0.69, 0.5]]
    assert "all weights, bfloat16" in panels[0].get_title() and "0.1 apart" in panels[1].get_title()


def test_on_a_gpu_all_sides_train_there(tiny_model_dir: Path, pairs_file: Path, tmp_path: Path) -> None:
    phase = Phase("lora", "float32", pairs_of(pairs_file, tiny_model_dir, tmp_path))
    setting, task = setting_of(tmp_path, tiny_model_dir), TASK.model_copy(update={"gpu": True})
    ours = load(TrainDpo, None, preference.our_arguments(task, phase, setting, tmp_path))
    assert ours.scale.gpu and ours.scoring.gpu and not our_config(phase, setting).scale.gpu
    *_, spec = preference.trl_arguments(task, phase, setting, "tuned")
    assert json.loads(Path(spec).read_text())["gpu"] is True
    env = {shown: Arena(tmp_path, tmp_path, 1, lambda pid: None, shown)._env(True) for shown in (True, False)}  # type: ignore[arg-type, return-value]
    assert env[False]["CUDA_VISIBLE_DEVICES"] == "" and env[True].get("CUDA_VISIBLE_DEVICES") != ""
