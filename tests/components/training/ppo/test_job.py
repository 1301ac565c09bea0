"""What a PPO job refuses before an engine starts, and what it keeps where an invariant broke."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config import UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.data.records import PREFERENCE
from components.models.rewards import RewardInfo
from components.training.callbacks import Breach
from components.training.ppo import job
from components.training.ppo.sections import Sections
from components.training.ppo.settings import RolloutConfig

TEMPLATE = SimpleNamespace(digest="template")


def reward(folder: Path, kind="outcome", base="base", adapter=True) -> str:
    folder.mkdir()
    RewardInfo(kind, 1, "models/base", base, "template", (0.0,), (1.0,)).write(folder)
    if adapter:
        (folder / "adapter_config.json").write_text("{}")
    return str(folder)


def config(rewards=(), **sections):
    return SimpleNamespace(rewards=list(rewards), **dict(Sections(**sections)))


def test_rewards_are_known_by_what_they_were_trained_on(tmp_path):
    with_page = reward(tmp_path / "a")
    (tmp_path / "a" / "lineage.json").write_text('{"lineage_id": "L1"}')
    rewards = [with_page, reward(tmp_path / "b", base="other", adapter=False)]
    found = job.check_rewards(config(rewards, adapter={"name": "none"}), TEMPLATE, "base")
    assert found == {"rewards": ["L1", "other"]}


def test_step_rewards_need_a_process_model(tmp_path):
    sections = {"reward": {"steps": 0.5}, "adapter": {"name": "none"}}
    with pytest.raises(UserError, match=r"reward\.steps needs a process reward model"):
        job.check_rewards(config([reward(tmp_path / "o")], **sections), TEMPLATE, "base")
    job.check_rewards(config([reward(tmp_path / "p", kind="process")], **sections), TEMPLATE, "base")


@pytest.mark.parametrize(
    ("base", "adapter", "policy", "fine"),
    [
        ("base", True, "lora", True),
        ("base", True, "none", False),  # there is no trunk to share
        ("base", False, "lora", False),  # a model of its own
        ("other", True, "lora", False),
    ],
)
def test_a_critic_that_starts_as_a_reward_needs_one_on_the_trunk(tmp_path, monkeypatch, base, adapter, policy, fine):
    monkeypatch.setattr(job, "check_on_trunk", lambda folder, digest: None)
    asked = config([reward(tmp_path / "r", base=base, adapter=adapter)], advantage={"critic": "reward"})
    asked.adapter = asked.adapter.model_copy(update={"name": policy})
    if fine:
        job.check_rewards(asked, TEMPLATE, "base")
        return
    with pytest.raises(UserError, match=r"advantage\.critic=reward needs a reward model that is an adapter"):
        job.check_rewards(asked, TEMPLATE, "base")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Two prompts to train on, none held out."""
    rows = [
        {
            "pair_id": f"p{number}",
            "prompt_id": f"q{number}",
            "prompt": [{"role": "user", "content": f"What is {number}?"}],
            "chosen": [{"role": "assistant", "content": "A number."}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "chosen_score": 1.0,
            "rejected_score": 0.0,
            "kind": "what",
            "split": "train",
            "source": "test",
        }
        for number in range(2)
    ]
    return store.write(str(tmp_path_factory.mktemp("db")), "prompts", rows, schema=PREFERENCE, key="pair_id")


def test_rewards_that_held_out_answers_are_compared_by_need_held_out_prompts(prompts, tiny_model_dir, make_run):
    asked = {"guards": {"rewards": ["."]}}
    template = ChatTemplate.from_folder(tiny_model_dir)
    for sections in ({}, asked):
        given = SimpleNamespace(prompts=prompts, eval_rows=8, seed=0, **dict(Sections(**sections)), blind="")
        if sections:
            with pytest.raises(UserError, match=r"guards\.rewards .* split 'test' .* has none"):
                job.read_prompts(given, template, make_run())
        else:
            assert job.read_prompts(given, template, make_run()).held_out is None


def test_engines_and_workers_need_a_gpu_each():
    asked = config(rollout={"engine": {"engines": 2}})
    asked.scale = SimpleNamespace(gpu=True, workers=2)
    job.check_gpus(asked, [4])
    with pytest.raises(UserError, match="2 rollout engines and 2 workers need a GPU each, the cluster has 3"):
        job.check_gpus(asked, [2, 1])
    asked.scale.gpu = False
    job.check_gpus(asked, [0])


def test_engines_on_the_workers_gpus_need_no_more_and_as_many():
    asked = config(rollout={"engine": {"engines": 2}, "share_gpus": True})
    asked.scale = SimpleNamespace(gpu=True, workers=2)
    job.check_gpus(asked, [2])
    job.check_gpus(asked, [1, 0, 1])
    job.check_gpus(asked, [8, 0])  # Ray puts a worker where an engine has left half
    with pytest.raises(UserError, match="2 pairs of worker and engine need a GPU each, the cluster has 1"):
        job.check_gpus(asked, [1])
    with pytest.raises(UserError, match=r"as many workers as GPUs, .* set scale\.workers=4"):
        job.check_gpus(asked, [2, 2])
    asked.scale.workers = 1
    with pytest.raises(UserError, match=r"set rollout\.engine\.engines=1"):
        job.check_gpus(asked, [2])


@pytest.mark.parametrize(
    ("rollout", "memory"),
    [({}, None), ({"share_gpus": True}, 0.4), ({"share_gpus": True, "engine": {"gpu_memory_share": 0.6}}, 0.6)],
)
def test_an_engine_that_shares_its_gpu_leaves_memory_for_training(rollout, memory):
    settings = RolloutConfig.model_validate(rollout)
    assert settings.engine_beside_training.gpu_memory_share == memory
    assert sum(settings.gpus) == (1.0 if settings.share_gpus else 2.0)


def test_what_was_noted_is_in_the_run_where_an_invariant_broke(tmp_path):
    logged = []
    run = SimpleNamespace(dir=tmp_path, log_artifact=lambda path: logged.append(path.name))
    for name in ("evidence.json", "samples.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError), job._keeping_what_was_noted(run):
        raise ValueError
    assert logged == []
    with pytest.raises(Breach), job._keeping_what_was_noted(run):
        raise Breach("the KL is over its limit")
    assert logged == ["samples.jsonl", "evidence.json"]

    def refuse(path):
        raise OSError("no such store")

    run.log_artifact = refuse
    with pytest.raises(Breach), job._keeping_what_was_noted(run):
        raise Breach("the KL is over its limit")
