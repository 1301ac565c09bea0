"""Two rounds of online DPO as a person runs them: answers from a real engine, a reward model, training, and again."""

import json
import math
from pathlib import Path

import pytest

from components.data import store
from components.data.chat import ChatTemplate
from components.models.folder import digest
from components.models.rewards import RewardInfo, load_base
from components.tracking.run import read_curves
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
          size: 8
          sampling: {n: 3, temperature: 1.0, top_p: 1.0, max_new_tokens: 6}
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
          optim: {epochs: 1, batch_size: 4, micro_batch_size: 2, learning_rate: 1.0e-3, dtype: float32}
          eval_rows: 3
          measure: {prompts: 0}
steps:
  report:
    workflow: report
    config: {runs: {last: <train.run_id>, first: <train-1.run_id>}, figures: {Pairs: <sample.metrics>}}
"""


@pytest.fixture(scope="module")
def reward(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of one fresh head: it likes some answers better than others, whatever they say."""
    folder = tmp_path_factory.mktemp("online") / "reward"
    load_base(tiny_model_dir, 1, "float32", 0).save_pretrained(folder)
    template = ChatTemplate.from_folder(tiny_model_dir).digest
    RewardInfo.unscaled("outcome", 1, str(tiny_model_dir), digest(tiny_model_dir), template).write(folder)
    return folder


@pytest.mark.slow
def test_two_rounds_learn_from_their_own_answers(reward: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    yaml = YAML.replace("MODEL", str(tiny_model_dir)).replace("STORAGE", str(storage)).replace("REWARD", str(reward))
    command = pipeline_of(yaml, tmp_path)
    write_tables(storage, train=12, test=4)
    done = run_apart(command)
    assert done.returncode == 0, done.stderr[-5000:]
    steps = ["sample-1", "train-1", "sample-2", "train-2", "report"]
    summary = json.loads((storage / "summary.json").read_text())["steps"]
    assert {name: step["status"] for name, step in summary.items()} == dict.fromkeys(steps, "done")

    rows = store.read(f"{storage}/lancedb#online_preferences")
    by_round = {number: [row for row in rows if row["round"] == number] for number in (None, 1, 2)}
    assert len(by_round[None]) == 16 and len(by_round[1]) >= 4 and len(by_round[2]) >= 4
    assert len({row["pair_id"] for row in rows}) == len(rows)
    (first,), (second,) = ({row["policy_digest"] for row in by_round[number]} for number in (1, 2))
    assert first == digest(tiny_model_dir) != second
    assert second in {digest(folder) for folder in storage.glob("train_dpo/*/model")}  # what the first round trained
    held_out = {row["prompt_id"] for row in by_round[None] if row["split"] == "test"}
    asked = [{row["prompt_id"] for row in by_round[number]} for number in (1, 2)]
    assert not held_out & (asked[0] | asked[1]) and len(asked[0] | asked[1]) > 8  # the next round asks the next ones
    for row in by_round[1] + by_round[2]:
        assert row["split"] == "train" and row["judge"] == "reward" and row["chosen_score"] > row["rejected_score"]
        assert json.loads(row["sampling"])["n"] == 3
    losses = read_curves(storage, summary["train-2"]["run_id"])["train/loss"]
    assert [value for _, value in losses] == pytest.approx([math.log(2)] * 2, abs=1e-4)

    again = run_apart(command)
    assert again.returncode == 0, again.stderr[-3000:]
    summary = json.loads((storage / "summary.json").read_text())["steps"]
    assert {step["status"] for step in summary.values()} == {"cached"}
