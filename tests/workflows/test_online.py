"""Two rounds of online DPO as a person runs them: answers from a real engine, a reward model, training, and again."""

import json
import math
from pathlib import Path

import pytest

from components.data import store
from components.data.chat import ChatTemplate
from components.models.folder import digest
from components.models.load import load_model, load_tokenizer
from components.models.rewards import RewardInfo, load_base
from components.tracking.history import read_curves
from tests.workflows.toy import pipeline_of, run_apart, write_tables

YAML = """
name: toy
ray: {num_cpus: 2}
loops:
  online:
    rounds: 2
    start: {policy: MODEL, pairs: "STORAGE/lancedb#preferences"}
    carry: {policy: <train.model>, pairs: <sample.preferences>}
    steps:
      sample:
        workflow: sample_preferences
        config:
          model: <loop.policy>
          prompts: STORAGE/lancedb#preferences
          onto: <loop.pairs>
          round: <loop.round>
          size: 6
          sampling: {n: 4, temperature: 1.0, top_p: 1.0, max_new_tokens: 8}
          engine: {max_model_len: 256, max_sequences: 16, kv_cache_gib: 0.25}
          judge: {name: reward, rewards: [REWARD]}
          margin: 1.0e-4
      train:
        workflow: train_dpo
        config:
          model: <loop.policy>
          preferences: <sample.preferences>
          where: round = <loop.round>
          reference: {update: hard, every: 1} # so that policy and reference are the same at the start of each step
          adapter: {name: none}
          optim: {epochs: 3, batch_size: 4, micro_batch_size: 2, learning_rate: 1.0e-4, dtype: float32}
          eval_rows: 3
          measure: {prompts: 0}
steps:
  report:
    workflow: report
    config: {runs: {last: <train.run_id>, first: <train-1.run_id>}, figures: {Pairs: <sample.metrics>}}
"""


@pytest.fixture(scope="module")
def policy(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, untrained, but ending a quarter of its answers at each token: one that is cut off wins nothing.

    All embeddings are 1 in their first dimension, which outweighs the others (0.02) and so is about 8 = sqrt(64) after
    the last norm; a head that weighs it with 0.6 for the turn's end alone adds 4.8 = ln(384 x 0.3) to that one's logit.
    """
    import torch

    folder = tmp_path_factory.mktemp("online") / "policy"
    model = load_model(tiny_model_dir, "float32")
    model.config.tie_word_embeddings = False
    head = model.get_input_embeddings().weight.detach().clone()
    head[:, 0] = 0.0
    head[2, 0] = 0.6
    model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1.0
    model.save_pretrained(folder)
    load_tokenizer(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of one fresh head: it likes some answers better than others, whatever they say."""
    folder = tmp_path_factory.mktemp("online") / "reward"
    load_base(policy, 1, "float32", 0).save_pretrained(folder)
    template = ChatTemplate.from_folder(policy).digest
    RewardInfo.unscaled("outcome", 1, str(policy), digest(policy), template).write(folder)
    return folder


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_two_rounds_learn_from_their_own_answers(reward: Path, policy: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    yaml = YAML.replace("MODEL", str(policy)).replace("STORAGE", str(storage)).replace("REWARD", str(reward))
    command = pipeline_of(yaml, tmp_path)
    write_tables(storage, train=12, test=4)
    done = run_apart(command, timeout_s=500)
    assert done.returncode == 0, done.stderr[-5000:]
    steps = ["sample-1", "train-1", "sample-2", "train-2", "report"]
    summary = json.loads((storage / "summary.json").read_text())["steps"]
    assert {name: step["status"] for name, step in summary.items()} == dict.fromkeys(steps, "done")

    rows = store.read(f"{storage}/lancedb#online_preferences")
    by_round = {number: [row for row in rows if row["round"] == number] for number in (None, 1, 2)}
    assert len(by_round[None]) == 16 and len(by_round[1]) >= 3 and len(by_round[2]) >= 3
    assert len({row["pair_id"] for row in rows}) == len(rows)
    (first,), (second,) = ({row["policy_digest"] for row in by_round[number]} for number in (1, 2))
    assert first == digest(policy) != second
    assert second in {digest(folder) for folder in storage.glob("train_dpo/*/model")}  # what the first round trained
    held_out = {row["prompt_id"] for row in by_round[None] if row["split"] == "test"}
    asked = [{row["prompt_id"] for row in by_round[number]} for number in (1, 2)]
    assert not held_out & (asked[0] | asked[1]) and not asked[0] & asked[1]  # 2 x 6 of 12: each is asked once
    for row in by_round[1] + by_round[2]:
        assert row["split"] == "train" and row["judge"] == "reward" and row["chosen_score"] > row["rejected_score"]
        assert json.loads(row["sampling"])["n"] == 4
    for number in (1, 2):
        losses = [value for _, value in read_curves(storage, summary[f"train-{number}"]["run_id"])["train/loss"]]
        assert len(losses) > 1 and losses == pytest.approx([math.log(2)] * len(losses), abs=1e-4)
