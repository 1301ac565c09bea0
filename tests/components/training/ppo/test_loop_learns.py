"""The loop with a fake engine in the same process: it must learn what it is paid for, and nothing else."""

import pytest
import torch
from transformers import LlamaForCausalLM

from components.models.load import load_model, load_tokenizer
from components.training.ppo.settings import AdvantageConfig, ClipConfig, KlConfig
from tests.components.training.ppo.fakes import (
    NONE,
    PROMPTS,
    make_loop,
    moved,
    rows_of,
    run,
    sgd,
    share_of_targets,
    weights_of,
)


@pytest.fixture(scope="module")
def sharp_dir(tiny_model_dir, tmp_path_factory):
    """The tiny model with an output head of its own that is not near 0: what is before it can tell tokens apart."""
    folder = tmp_path_factory.mktemp("models") / "sharp"
    config = load_model(tiny_model_dir, "float32").config
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.normal_(std=0.2)
    model.save_pretrained(folder)
    load_tokenizer(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "advantage",
    [
        AdvantageConfig(),
        AdvantageConfig(critic="policy"),
        AdvantageConfig(name="rloo"),
        AdvantageConfig(name="grpo"),
    ],
    ids=["gae", "gae-one-pass", "rloo", "grpo"],
)
def test_a_bandit_is_learned_and_its_negation_is_not(advantage, sharp_dir):
    """A random policy says targets a quarter of the time; in 16 iterations of 128 answers that must be over 60 %.

    Paid for the opposite it must never say them more often than 10 points above that, and in the end half as often.
    """

    def shares(sign):
        loop = make_loop(
            sharp_dir,
            optimizer=lambda weights: torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.0),
            score=lambda rows, drawn: share_of_targets(rows, drawn, sign),
            rollout={"prompts": 8, "samples": 16},
            update={"minibatches": 4, "iterations": 16},
            advantage=advantage,
            kl=KlConfig(coefficient=0.001),
            max_norm=1.0,
        )
        return [sign * figures["objective/reward"] for figures in run(loop, 16, PROMPTS)]

    paid, negated = shares(1.0), shares(-1.0)
    assert paid[0] == negated[0] == pytest.approx(0.25, abs=0.06)
    assert sum(paid[-3:]) / 3 > 0.6
    assert max(negated) < paid[0] + 0.1 and sum(negated[-3:]) / 3 < 0.125


def test_the_first_step_is_the_policy_gradient(tiny_model_dir):
    """Of plain sums over separate forwards: -(reward - mean of the others') x log-probability, over all tokens."""
    loop = make_loop(
        tiny_model_dir,
        optimizer=sgd,
        adapter=NONE,
        advantage=AdvantageConfig(name="rloo", whiten=False),
        rollout={"temperature": 0.8},
    )
    drawn = loop.draw(rows_of(PROMPTS[:4]))
    rewards = share_of_targets(None, drawn).total
    plain = load_model(tiny_model_dir, "float32")
    loss, tokens = 0.0, 0
    for p, (prompt, own) in enumerate(zip(PROMPTS[:4], drawn.answers, strict=True)):
        for k, answer in enumerate(own):
            logits = plain(input_ids=torch.tensor([[*prompt, *answer.ids]])).logits[0, len(prompt) - 1 : -1]
            logprob = (logits / 0.8).log_softmax(-1)[range(len(answer.ids)), answer.ids].sum()
            others = (rewards[p].sum() - rewards[p, k]) / 3
            loss = loss - (rewards[p, k] - others) * logprob
            tokens += len(answer.ids)
    (loss / tokens).backward()
    before = weights_of(loop)
    run(loop, 1)
    after = weights_of(loop)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(
            after[f"policy.{name}"] - before[f"policy.{name}"], -weight.grad, atol=1e-5, rtol=1e-3
        )


def test_the_first_step_of_a_critic_is_towards_its_returns(tiny_model_dir):
    """With gamma and lambda 1, values of 0 and a reward at the end, each token's return is the answer's reward.

    The head's bias then moves by 0.5 x (mean over all tokens of the rewards) at a learning rate of 1.
    """
    loop = make_loop(
        tiny_model_dir,
        optimizer=sgd,
        advantage=AdvantageConfig(lam=1.0),
        update={"value": 0.5},
        clip=ClipConfig(value=None),
    )
    drawn = loop.draw(rows_of(PROMPTS[:4]))
    rewards = share_of_targets(None, drawn).total
    lengths = torch.tensor([[len(answer.ids) for answer in own] for own in drawn.answers])
    run(loop, 1)
    expected = 0.5 * (rewards * lengths).sum() / lengths.sum()
    assert loop.roles.module.value_head.bias.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("critic", ["fresh", "policy"])
def test_while_the_critic_warms_up_the_policy_stays(critic, tiny_model_dir):
    loop = make_loop(tiny_model_dir, update={"critic_warmup": 1}, advantage=AdvantageConfig(critic=critic))
    before = weights_of(loop)
    run(loop, 1)
    after = weights_of(loop)
    for name, weight in before.items():
        if ".policy." in name:
            assert torch.equal(after[name], weight), name
    assert moved({"value_head.weight": before["value_head.weight"]}, after) > 1e-4
    run(loop, 1)
    assert any(not torch.equal(weights_of(loop)[name], weight) for name, weight in before.items() if ".policy." in name)
    assert loop.learner.policy == [0.0, pytest.approx(1.344, abs=1e-3)]  # Adam has counted one step


@pytest.mark.parametrize(
    "kl",
    [KlConfig(place="reward", coefficient=0.5), KlConfig(place="loss", estimator="k3", coefficient=0.5)],
    ids=["reward", "loss"],
)
def test_the_kl_term_holds_the_policy_back(kl, sharp_dir):
    """The same bandit: held at half a nat's worth of reward per nat, the policy stays where a free one does not."""

    def last_kl(kl):
        loop = make_loop(
            sharp_dir,
            optimizer=lambda weights: torch.optim.AdamW(weights, lr=6e-3, weight_decay=0.0),
            rollout={"prompts": 8, "samples": 16},
            update={"minibatches": 4},
            advantage=AdvantageConfig(name="rloo"),
            kl=kl,
            max_norm=1.0,
        )
        return run(loop, 10, PROMPTS)[-1]["objective/kl"]

    assert last_kl(kl) < 3 < 10 < last_kl(KlConfig(coefficient=0.0))
