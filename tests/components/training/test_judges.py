"""Who judges a model's own answers: each judge's scores against what it stands for, and what cannot be one."""

import json

import pytest

from components.config import UserError, parse
from components.data.chat import ChatTemplate
from components.data.judge import judge as judge_answer
from components.data.records import Question
from components.models.folder import digest
from components.models.rewards import RewardInfo, RewardModel, load_base
from components.training.judges import JudgeConfig, Programmatic, RewardScorer, make
from components.training.own_answers import SeveralDraws

PROMPTS = [[{"role": "user", "content": f"Which function joins {number} path names?"}] for number in range(3)]
ANSWERS = [["It joins them.", "I don't know.", "No [1]."], [], ["It splits path names [2]. Or not."]]


@pytest.fixture(scope="module")
def rewards(tiny_model_dir, tmp_path_factory):
    """Two reward models of the tiny model's chat template: one of two heads, one of one."""
    folders = []
    template = ChatTemplate.from_folder(tiny_model_dir)
    for seed, heads in ((1, 2), (2, 1)):
        folder = tmp_path_factory.mktemp("judges") / f"reward{heads}"
        load_base(tiny_model_dir, heads, "float32", seed).save_pretrained(folder)
        info = RewardInfo.unscaled("outcome", heads, str(tiny_model_dir), digest(tiny_model_dir), template.digest)
        info.write(folder)
        folders.append(str(folder))
    return folders


def alone(folder, template, prompt, answer):
    """The heads' rewards of one answer, read alone."""
    ids = template.completion_ids(prompt, answer)
    ((values,),) = RewardModel(folder, dtype="float32", device="cpu").score([template.prompt_ids(prompt)], [[ids]])
    return values


def test_reward_models_are_run_by_ray_and_combined(rewards, tiny_model_dir, ray_cluster, tmp_path):
    """The mean of three heads less their deviation; rows are told apart, whatever block they come back in."""
    template = ChatTemplate.from_folder(tiny_model_dir)
    values = {"name": "reward", "rewards": rewards, "combine": {"name": "mean_minus_std", "penalty": 2.0}}
    config = parse(JudgeConfig, {**values, "scoring": {"batch_pairs": 1, "cpus_per_actor": 1}})
    judge = make(config, tiny_model_dir, template, tmp_path, 0)
    judged, figures = judge([{"prompt": prompt} for prompt in PROMPTS], ANSWERS)
    spreads = []
    for prompt, answers, own in zip(PROMPTS, ANSWERS, judged, strict=True):
        assert own.better is None and len(own.scores) == len(answers)
        for answer, score in zip(answers, own.scores, strict=True):
            heads = [value for folder in rewards for value in alone(folder, template, prompt, answer)]
            mean = sum(heads) / 3
            spreads.append((sum((value - mean) ** 2 for value in heads) / 3) ** 0.5)
            assert score == pytest.approx(mean - 2 * spreads[-1], abs=0.05)  # the actor may compute in bfloat16
    assert figures["judge/disagreement"] == pytest.approx(sum(spreads) / len(spreads), abs=0.02)
    assert len(spreads) == 4 and max(spreads) > 0.02


def test_a_scorer_keeps_heads_of_all_models_apart(rewards, tiny_model_dir):
    template = ChatTemplate.from_folder(tiny_model_dir)
    batch = {"number": [7], "request": [json.dumps([PROMPTS[0], ANSWERS[0]])]}
    found = RewardScorer(rewards, str(tiny_model_dir), 512, 1, False)(batch)
    heads = json.loads(found["heads"][0])
    assert found["number"] == [7] and [len(own) for own in heads] == [3, 3, 3]
    for answer, own in zip(ANSWERS[0], heads, strict=True):
        expected = [value for folder in rewards for value in alone(folder, template, PROMPTS[0], answer)]
        assert own == pytest.approx(expected, abs=0.03)


def test_the_digest_says_which_models_and_how_they_are_combined(rewards, tiny_model_dir, tmp_path):
    template = ChatTemplate.from_folder(tiny_model_dir)

    def found(**values):
        return make(parse(JudgeConfig, {"name": "reward", **values}), tiny_model_dir, template, tmp_path, 0).digest

    assert found(rewards=rewards) == found(rewards=rewards, scoring={"batch_pairs": 3})
    others = {found(rewards=rewards[:1]), found(rewards=rewards, combine={"name": "min"}), found(rewards=rewards)}
    assert len(others) == 3


def test_a_reward_model_of_another_template_is_refused(rewards, tiny_model_dir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    RewardInfo.unscaled("outcome", 1, "x", "y", "another").write(other)
    config = JudgeConfig(name="reward", rewards=[str(other)])
    with pytest.raises(UserError, match="another chat template"):
        make(config, tiny_model_dir, ChatTemplate.from_folder(tiny_model_dir), tmp_path, 0)


def test_the_programmatic_judge_is_the_one_that_build_preferences_has():
    question = Question(
        prompt_id="q",
        prompt=PROMPTS[0],
        question="What is a heron?",
        kind="what",
        answerable=True,
        passages=[{"passage_id": "p", "text": "A heron is a grey bird that fishes.", "title": "", "source": ""}],
        target=1,
        reference="[1] It is a grey bird that fishes.",
    )
    answers = ["[1] It is a grey bird that fishes.", "[2] It is a grey bird that fishes.", "I don't know.", "A fish."]
    (judged,), figures = Programmatic()([question.row()], [answers])
    assert judged.scores == [judge_answer(text, question).score for text in answers]
    assert judged.scores[0] == 1.0 and len(set(judged.scores)) > 2 and judged.better is None
    assert figures == {"judge/grounded": 0.25, "judge/abstained": 0.25}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rewards": ["r"]}, r"judge\.rewards is set, but judge\.name is programmatic: set judge\.name=reward"),
        ({"name": "reward"}, r"needs judge\.rewards"),
        ({"name": "reward", "rewards": ["r"], "llm": {"model": "m"}}, r"judge\.llm is set, .* set judge\.name=llm"),
        ({"name": "llm"}, r"needs judge\.llm\.model"),
        ({"name": "llm", "llm": {"model": "m"}, "combine": {"name": "min"}}, r"judge\.combine is set"),
        ({"name": "llm", "llm": {"model": "m", "template": "x"}}, r"judge\.llm\.template has"),
    ],
)
def test_what_does_not_belong_to_a_judge_is_refused(values, says):
    with pytest.raises(UserError, match=says):
        parse(JudgeConfig, values)


def test_one_key_keeps_the_others_defaults():
    assert parse(SeveralDraws, {"temperature": 1.0}).n == 4
    llm = parse(JudgeConfig, {"name": "llm", "llm": {"model": "m", "engine": {"engines": 2}}}).llm
    assert llm.engine.max_model_len == 2048 and llm.max_new_tokens == 8
