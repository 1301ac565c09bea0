"""What a run refuses before anything starts, each with the key to change."""

import pytest

from components.config import UserError, parse
from components.training.ppo.sections import Sections
from workflows.train_ppo import TrainPpo


def test_the_defaults_are_fine():
    Sections().check(1)
    Sections().check(4)  # 16 prompts, 4 minibatches


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"rollout": {"prompts": 18}}, r"rollout\.prompts 18 is not a multiple of"),
        ({"advantage": {"name": "grpo"}, "rollout": {"samples": 1}}, r"rollout\.samples to 2 or more"),
        # A policy that drops out differs from itself: its ratio would not start at 1.
        ({"adapter": {"dropout": 0.1}}, r"adapter\.dropout"),
        # Merged weights of a DoRA adapter are more than W + BA, which is what the engines are handed.
        ({"adapter": {"name": "dora"}}, r"adapter\.name=dora is not for PPO"),
        ({"deepspeed": {"stage": 3}}, r"deepspeed\.stage"),
        ({"optim": {"gradient_checkpointing": True}}, r"optim\.gradient_checkpointing"),
        ({"rollout": {"min_new_tokens": 50}}, r"rollout\.min_new_tokens"),
        # Its gradient is that of the log-probabilities of what was drawn, which is 0 in the mean: it holds nothing.
        ({"kl": {"place": "loss", "estimator": "k1"}}, r"kl\.estimator"),
        ({"max_prompt_tokens": 1000}, r"do not fit into rollout\.engine\.max_model_len 1024"),
        # What is steered is multiplied.
        ({"kl": {"coefficient": 0.0, "target": 6.0}}, r"start above 0"),
        # There is no critic, so the first iterations would train nothing at all.
        ({"advantage": {"name": "rloo"}, "update": {"critic_warmup": 1}}, r"update\.critic_warmup"),
        ({"update": {"critic_warmup": 10}}, r"critic_warmup 10 leaves none of update\.iterations 10 to the policy"),
        ({"rollout": {"engine": {"engines": 2}}}, r"rollout\.engine\.engines 2 some would stand idle"),
        # Looks before training and at 4: two, of which nothing can fall twice in a row.
        (
            {"guards": {"rewards": ["."], "eval_every": 4}, "update": {"iterations": 8}},
            r"guards\.patience \+ 1 = 3 looks .* before the last of update\.iterations=8 there are 2: lower guards",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(sections, said):
    with pytest.raises(UserError, match=said):
        Sections(**sections).check(1)


def test_every_worker_needs_the_same_number_of_prompts():
    with pytest.raises(UserError, match=r"scale\.workers 3"):
        Sections().check(3)


def test_a_run_too_short_to_see_a_gamed_reward_is_told_of_it_but_not_refused():
    """Unless it has reward models for nothing else."""
    short = Sections(update={"iterations": 4})
    short.check(1)
    assert "guards.patience + 1 = 3 looks" in short.blind
    assert not Sections().blind
    Sections(guards={"rewards": ["."]}).check(1)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("epochs", r"set update\.epochs"),
        ("batch_size", r"set rollout\.prompts and update\.minibatches"),
        ("micro_batch_size", r"set update\.micro_prompts"),
        ("length_window", r"unknown key 'optim\.length_window'"),
    ],
)
def test_what_other_trainings_have_in_their_optim_is_refused(key, said):
    """In a PPO run it would do nothing."""
    with pytest.raises(UserError, match=said):
        parse(TrainPpo, {"model": "m", "prompts": "uri#t", "optim": {key: 2}})
