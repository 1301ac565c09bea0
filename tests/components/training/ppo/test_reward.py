"""What an answer is worth: by hand from what RewardModel gives on its own, whether or not it is on the trunk."""

from dataclasses import replace

import pytest
import torch

from components.models.adapters import AdapterConfig, peft_config
from components.models.folder import digest
from components.models.load import load_tokenizer
from components.models.rewards import CombineConfig, RewardInfo, RewardModel, load_base
from components.training.ppo.experience import Answer, Experience
from components.training.ppo.reward import Scorer
from components.training.ppo.roles import Roles
from components.training.ppo.settings import RewardShape

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
TEXTS = [["2+3 = 5\n5*2 = 10", "so\n\nten", "ten"], ["a\nb\nc", "d", "e\n"], ["f", "g\nh", "i\nj\n"]]
FINISHED = [[True, True, False], [True, False, True], [True, True, True]]
ROWS = [{"number": 1}, {"number": 2}, {"number": 3}]
WORST_MEAN, WORST_STD = (-0.3, 0.1), (0.8, 1.25)  # of an answer's worst step


@pytest.fixture(scope="module")
def decode(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def drawn(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    answers = []
    for texts, finished in zip(TEXTS, FINISHED, strict=True):
        ids = [tokenizer(text)["input_ids"] + [2] * end for text, end in zip(texts, finished, strict=True)]
        answers.append([Answer(own, [-1.0] * len(own), end) for own, end in zip(ids, finished, strict=True)])
    return Experience(PROMPTS, answers)


@pytest.fixture(scope="module", params=["outcome", "process"])
def reward(request, tiny_model_dir, tmp_path_factory):
    """A reward model of two heads, an adapter with nothing in it that is 0."""
    return make_reward(request.param, tiny_model_dir, tmp_path_factory.mktemp("rewards"))


def make_reward(kind, tiny_model_dir, place, first_layer=0):
    from peft import get_peft_model

    folder = place / kind
    config = peft_config(AdapterConfig(rank=4, first_layer=first_layer), task="SEQ_CLS")
    model = get_peft_model(load_base(tiny_model_dir, 2, "float32", 1), config)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    digests = (digest(tiny_model_dir), "template")
    worst = (WORST_MEAN, WORST_STD) if kind == "process" else ()
    RewardInfo(kind, 2, str(tiny_model_dir), *digests, (0.1, -0.2), (1.5, 0.5), *worst).write(folder)
    return folder


def make_scorer(base, rewards, decode, *, on_trunk=True, first_layer=0, **shape):
    torch.manual_seed(0)
    mark = digest(base) if on_trunk else "another base"
    adapter = AdapterConfig(first_layer=first_layer)
    roles = Roles(base, adapter, rewards, critic=None, dtype="float32", device="cpu", base_digest=mark)
    assert bool(roles.trunk_rewards) == (on_trunk and bool(rewards))
    return Scorer(roles, RewardShape(**shape), CombineConfig(name="min"), decode, None, 2)


def expected_heads(reward, drawn):
    """[P][K] heads of each answer and, of a process model, the lower head's reward at each step's last token."""
    model = RewardModel(reward, dtype="float32")
    ids = [[answer.ids for answer in own] for own in drawn.answers]
    if model.info.kind == "outcome":
        return model.score(PROMPTS, ids), {}
    (newline,) = load_tokenizer(model.info.base)("\n")["input_ids"]  # in these answers always a token of its own
    heads, steps = [], {}
    for p, own in enumerate(ids):
        heads.append([])
        for k, answer in enumerate(own):
            breaks = [at for at, token in enumerate(answer) if token == newline and at and answer[at - 1] != newline]
            end = len(answer) - 1
            ends = [at for at in breaks if answer[at + 1 : end] or answer[-1:] not in ([2], [newline])] + [end]
            (values,) = model.score_steps([PROMPTS[p]], [answer], [ends])
            lowest = zip(zip(*values, strict=True), WORST_MEAN, WORST_STD, strict=True)
            heads[p].append([(min(head) - mean) / std for head, mean, std in lowest])
            steps |= {(p, k, place): min(value) for place, value in zip(ends, values, strict=True)}
    return heads, steps


@pytest.mark.parametrize("on_trunk", [True, False])
def test_an_answer_gets_what_its_reward_model_says(on_trunk, reward, drawn, decode, tiny_model_dir):
    scorer = make_scorer(tiny_model_dir, [reward], decode, on_trunk=on_trunk, steps=0.3, missing_eos=0.7, clip=50.0)
    found = scorer(ROWS, drawn)
    heads, steps = expected_heads(reward, drawn)
    for p, k in [(p, k) for p in range(3) for k in range(3)]:
        raw = min(heads[p][k])
        assert found.raw[p, k].item() == pytest.approx(raw, abs=1e-4)
        assert found.total[p, k].item() == pytest.approx(raw - (0.0 if FINISHED[p][k] else 0.7), abs=1e-4)
        spread = abs(heads[p][k][0] - heads[p][k][1]) / 2
        assert found.disagreement[p, k].item() == pytest.approx(spread, abs=1e-4)
    assert found.judged is None
    if not steps:
        assert found.steps is None
        return
    expected = torch.zeros(drawn.mask.shape)
    for place, value in steps.items():
        expected[place] = 0.3 * value
    torch.testing.assert_close(found.steps, expected, atol=1e-4, rtol=1e-4)


def test_rewards_are_weighed_clipped_and_told_apart_from_the_judges(drawn, decode, tiny_model_dir):
    """The judge gives row number / 10 + the answer's length; twice that, at most 5 either way."""

    def judge(row, answer):
        return row["number"] / 10 + len(answer)

    scorer = make_scorer(tiny_model_dir, [], decode, clip=5.0, missing_eos=1.0)
    found = replace(scorer, judge=judge, shape=scorer.shape.model_copy(update={"judge": 2.0}))(ROWS, drawn)
    for p, k in [(p, k) for p in range(3) for k in range(3)]:
        own = (p + 1) / 10 + len(TEXTS[p][k])
        assert found.judged[p, k].item() == pytest.approx(own)
        assert found.total[p, k].item() == pytest.approx(min(2 * own, 5.0) - (not FINISHED[p][k]))
        assert found.raw[p, k] == 0 and found.disagreement[p, k] == 0


def test_the_heads_of_several_models_are_one_ensemble(reward, drawn, decode, tiny_model_dir):
    """Twice the same two heads: the lowest of four is the lowest of two, their deviation the same."""
    once = make_scorer(tiny_model_dir, [reward], decode)(ROWS, drawn)
    twice = make_scorer(tiny_model_dir, [reward, reward], decode)(ROWS, drawn)
    torch.testing.assert_close(twice.raw, once.raw)
    torch.testing.assert_close(twice.disagreement, once.disagreement)


@pytest.mark.parametrize("kind", ["outcome", "process"])
@pytest.mark.parametrize("begins", [0, 1], ids=["in every block", "in the policy's blocks"])
def test_a_reward_takes_what_is_known_of_the_layers_below_if_it_has_none_there(
    begins, kind, drawn, decode, tiny_model_dir, tmp_path
):
    """Without looking at those again: ruined states change what it says."""
    reward = make_reward(kind, tiny_model_dir, tmp_path, begins)
    scorer = make_scorer(tiny_model_dir, [reward], decode, first_layer=1, steps=0.3)
    expected = scorer(ROWS, drawn)
    everyone = range(len(PROMPTS))
    packed, _ = scorer.roles.batch(*drawn.ids(everyone))
    below = scorer.roles.learn_below(packed, *drawn.ids(everyone))

    def scored(size):
        return scorer(ROWS, replace_below(drawn, {n: size * below[n] for n in everyone}))

    found, ruined = scored(1.0), scored(1.5)
    for name in ("raw", "total", "disagreement") + (("steps",) if kind == "process" else ()):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4)
    assert torch.equal(ruined.raw, expected.raw) == (begins == 0)


def replace_below(drawn, below):
    own = Experience(drawn.prompts, drawn.answers)
    own.below = below
    return own
