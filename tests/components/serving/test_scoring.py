"""The scoring deployment over a real, tiny reward model."""

import asyncio

import pytest

from components.config import UserError
from components.data.chat import ChatTemplate
from components.models.folder import digest
from components.models.rewards import RewardInfo, RewardModel, load_base
from components.models.step_rewards import step_ends
from components.serving.scoring import ScoreServer
from components.serving.strategy_checks import check_scorer

ASK = [{"role": "user", "content": "What is 2 + 3?"}]
ANSWERS = ["two and three\nmake five", "4", "It is five."]


@pytest.fixture(scope="module")
def rewards(tiny_model_dir, tmp_path_factory):
    """A function from a kind to the folder of a reward model with two heads."""
    template = ChatTemplate.from_folder(tiny_model_dir).digest

    def make(kind):
        folder = tmp_path_factory.mktemp("rewards") / kind
        load_base(tiny_model_dir, 2, "float32", 1).save_pretrained(folder)
        base = digest(tiny_model_dir)
        worst = ((-0.5, 0.25), (2.0, 0.5)) if kind == "process" else ()
        RewardInfo(kind, 2, str(tiny_model_dir), base, template, (0.1, -0.2), (0.5, 2.0), *worst).write(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_answers_score_as_the_model_scores_each_by_itself(rewards, tiny_model_dir, kind, capfd):
    folder = rewards(kind)
    server = ScoreServer(str(folder), str(tiny_model_dir))
    scores = asyncio.run(server.score(ASK, ANSWERS))
    template, model = ChatTemplate.from_folder(tiny_model_dir), RewardModel(folder, quiet=True)
    prompt, expected = template.prompt_ids(ASK), []
    for answer in ANSWERS:
        ids = template.completion_ids(ASK, answer)
        if kind == "outcome":
            first, second = model.score([prompt], [[ids]])[0][0]
        else:  # each head's own worst step, in deviations of worst steps
            steps = model.score_steps([prompt], [ids], [step_ends(ids, template.text_of)])[0]
            first, second = (min(step[0] for step in steps) + 0.5) / 2.0, (min(step[1] for step in steps) - 0.25) / 0.5
        expected.append((first + second) / 2)
    assert scores == pytest.approx(expected, abs=1e-4) and len(set(scores)) == 3
    assert "progress" not in capfd.readouterr().err


def test_a_developers_message_counts_as_a_systems(rewards, tiny_model_dir):
    server = ScoreServer(str(rewards("outcome")), str(tiny_model_dir))
    scores = [
        asyncio.run(server.score([{"role": role, "content": "Be brief."}, *ASK], ANSWERS))
        for role in ("developer", "system")
    ]
    assert scores[0] == scores[1]


def test_what_is_no_reward_model_of_this_template_is_refused(rewards, tiny_model_dir, tmp_path):
    assert check_scorer(rewards("outcome"), tiny_model_dir)
    with pytest.raises(UserError, match="is not a reward model"):
        check_scorer(tmp_path, tiny_model_dir)
