"""The loop with a fake engine in the same process: the same however it is split, resumed, and stopped by guards."""

import itertools
import math
import threading
from dataclasses import replace

import pytest
import torch

from components.training.callbacks import Breach
from components.training.ppo.experience import Answer
from components.training.ppo.figures import Scores
from components.training.ppo.loop import Settings
from components.training.ppo.notes import answer_figures
from components.training.ppo.settings import AdvantageConfig, GuardConfig, KlConfig
from tests.components.training.ppo.fakes import (
    LORA,
    NONE,
    PROMPTS,
    assert_same_weights,
    make_loop,
    moved,
    rows_of,
    run,
    sgd,
    share_of_targets,
    weights_of,
)


@pytest.mark.parametrize("adapter", [LORA, NONE], ids=["shared", "separate"])
def test_before_the_first_update_nothing_has_moved(adapter, tiny_model_dir):
    """The policy is the reference, the engine's policy and its own old self; then it is none of the first two."""
    loop = make_loop(
        tiny_model_dir, adapter=adapter, update={"minibatches": 2}, optimizer=lambda w: torch.optim.AdamW(w, lr=1e-3)
    )
    first, second = run(loop, 2)
    for figures in (first, second):
        assert figures["update/first_log_ratio"] < 1e-5 and figures["rollout/engine_gap"] < 1e-5
    assert first["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert abs(second["objective/kl"]) > 1e-6
    assert first["policy/abs_log_ratio"] > 1e-5  # the second minibatch is after an update
    assert loop.rollouts.versions == [0, 1, 2] and loop.learner.progress == [0, 0.05, 0.1, 0.15]


@pytest.mark.parametrize("name", ["gae", "rloo"])
def test_a_step_does_not_depend_on_the_passes_it_is_made_of(name, tiny_model_dir):
    after = []
    for micro_prompts in (1, 2, 4):
        loop = make_loop(
            tiny_model_dir,
            optimizer=sgd,
            update={"micro_prompts": micro_prompts, "entropy": 0.1},
            advantage=AdvantageConfig(name=name),
            kl=KlConfig(place="loss", estimator="k3", coefficient=0.1),
        )
        before = weights_of(loop)
        run(loop, 2)
        after.append(weights_of(loop))
        assert moved(before, after[-1]) > 1e-2
    assert_same_weights(after[1], after[0], 1e-5)
    assert_same_weights(after[2], after[0], 1e-5)


@pytest.mark.parametrize("name", ["gae", "grpo"])
def test_two_workers_are_one(name, tiny_model_dir):
    """Two loops in two threads, each with half of the prompts, and sums over both of them."""
    changes = {
        "optimizer": sgd,
        "engine": {"of_prompt_only": True},
        "advantage": AdvantageConfig(name=name),
        "reward": {"whiten": True},
        "kl": KlConfig(coefficient=0.1, target=0.5, horizon=100),
    }
    alone = make_loop(tiny_model_dir, **changes)
    before = weights_of(alone)
    expected = run(alone, 2)
    barrier, held = threading.Barrier(2, timeout=60), [None, None]

    def summing(rank):
        def reduce(values):
            held[rank] = values
            barrier.wait()
            total = held[0] + held[1]
            barrier.wait()
            return total

        return reduce

    loops = [make_loop(tiny_model_dir, rank=rank, workers=2, reduce=summing(rank), **changes) for rank in (0, 1)]
    figures = [None, None]

    def work(rank):
        try:
            figures[rank] = run(loops[rank], 2, PROMPTS[2 * rank : 2 * rank + 2])
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert moved(before, weights_of(alone)) > 1e-2
    for rank in (0, 1):
        assert_same_weights(weights_of(loops[rank]), weights_of(alone), 1e-5)
        for found, wanted in zip(figures[rank], expected, strict=True):
            told = [key for key in wanted if not key.startswith(("time/", "tokens_per_s/", "samples_per_s"))]
            assert {key: found[key] for key in told} == pytest.approx(
                {key: wanted[key] for key in told}, abs=1e-4, rel=1e-4
            )


def test_interrupted_and_resumed_is_uninterrupted(tiny_model_dir):
    """With everything that has a memory: Adam, a KL coefficient that follows its target, a guard that counts."""
    changes = {"kl": KlConfig(coefficient=0.1, target=0.5, horizon=50), "update": {"minibatches": 2, "epochs": 2}}
    whole = make_loop(tiny_model_dir, **changes)
    expected = run(whole, 4)
    first = make_loop(tiny_model_dir, **changes)
    run(first, 2)
    first.guards.is_hacking(1.0, [2.0])
    state, weights, optimizer = first.state(), weights_of(first), first.learner.optimizer.state_dict()
    resumed = make_loop(tiny_model_dir, **changes)
    resumed.roles.module.load_state_dict(weights, strict=False)
    resumed.learner.optimizer.load_state_dict(optimizer)
    resumed.restore(state)
    resumed.push(resumed.iteration)
    found = run(resumed, 2)
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(whole)[name]), name
    assert resumed.kl.coefficient == whole.kl.coefficient != 0.1
    assert resumed.guards.looks == [(1.0, [2.0])] and resumed.iteration == 4
    for ours, theirs in zip(found, expected[2:], strict=True):
        told = [key for key in theirs if not key.startswith(("time/", "tokens_per_s/", "samples_per_s"))]
        assert {key: ours[key] for key in told} == {key: theirs[key] for key in told}


def test_layers_below_the_adapters_need_no_second_pass(tiny_model_dir):
    """Two iterations from kept states are two iterations of whole passes; the kept ones are of this iteration."""

    def trained(split):
        adapter = LORA.model_copy(update={"first_layer": 1})
        loop = make_loop(tiny_model_dir, adapter=adapter, update={"epochs": 2, "minibatches": 2})
        loop.roles.first_layer = 1 if split else 0
        figures = run(loop, 2)
        return figures, weights_of(loop)

    (ours, split), (theirs, whole) = trained(True), trained(False)
    assert ours[1]["loss/policy"] == pytest.approx(theirs[1]["loss/policy"], abs=1e-5)
    assert_same_weights(split, whole, atol=1e-6)


@pytest.mark.parametrize("name", ["gae", "rloo", "grpo"])
@pytest.mark.parametrize(
    "kl", [KlConfig(place="reward", estimator="k1"), KlConfig(place="loss", estimator="k3")], ids=["reward", "loss"]
)
def test_every_advantage_runs_with_the_kl_in_either_place(name, kl, tiny_model_dir):
    loop = make_loop(
        tiny_model_dir, advantage=AdvantageConfig(name=name), kl=kl, update={"minibatches": 2, "epochs": 2}
    )
    before = weights_of(loop)
    figures = run(loop, 2)[-1]
    assert all(math.isfinite(value) for value in figures.values()) and moved(before, weights_of(loop)) > 1e-3
    assert ("value/explained_variance" in figures) == (name == "gae")
    paid = figures["objective/rlhf_reward"] - figures["objective/reward"]
    expected = -kl.coefficient * figures["objective/kl"] if kl.place == "reward" else 0.0
    assert paid == pytest.approx(expected, abs=1e-6)
    assert figures["objective/non_score_reward"] == pytest.approx(paid, abs=1e-6)


def test_an_engine_that_holds_other_weights_stops_the_run(tiny_model_dir):
    """Log-probabilities off by 1 nat."""
    loop = make_loop(tiny_model_dir, engine={"off_by": -1.0})
    with pytest.raises(Breach, match=r"engine and trainer differ by 1\.0000 nats per token .* \(iteration 1\)"):
        run(loop, 1)


def test_where_no_answer_could_end_the_engine_is_not_compared(tiny_model_dir):
    """An engine that may not end an answer draws from another distribution: of a third of the tokens it is the same."""
    loop = make_loop(tiny_model_dir, engine={"off_by": -1.0}, rollout={"min_new_tokens": 6})
    figures = run(loop, 1)[0]
    assert figures["rollout/engine_gap"] == 0 and figures["policy/importance"] == pytest.approx(1)
    loop = make_loop(tiny_model_dir, engine={"off_by": -1.0}, rollout={"min_new_tokens": 2})
    with pytest.raises(Breach, match="engine and trainer differ by 0"):
        run(loop, 1)


def test_a_trainer_that_is_not_the_scored_policy_stops_the_run(tiny_model_dir):
    loop = make_loop(tiny_model_dir)
    look = loop._look

    def look_then_slip(drawn):
        look(drawn)
        for name, weight in loop.roles.module.named_parameters():
            if ".lora_B.policy." in name:
                weight.data += 0.2

    loop._look = look_then_slip
    with pytest.raises(Breach, match="log-ratio before the first update"):
        run(loop, 1)
    assert loop.rollouts.versions == [0] and loop.figures["update/first_log_ratio"] > 1e-3


def test_a_policy_that_does_not_start_at_the_reference_stops_the_run(tiny_model_dir):
    loop = make_loop(tiny_model_dir)
    before = weights_of(loop)
    generator = torch.Generator().manual_seed(3)
    for name, weight in loop.roles.module.named_parameters():
        if ".lora_B.policy." in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
            before[name] = weight.detach().clone()
    loop.push(0)
    with pytest.raises(Breach, match="does not start at its reference"):
        run(loop, 1)
    assert moved(before, weights_of(loop)) == 0 and loop.rollouts.versions == [0, 0]
    assert (loop.running, loop.iteration) == (1, 0) and loop.figures["objective/reference_gap"] > 1e-3


def test_a_reward_that_is_not_finite_updates_nothing_and_is_counted(tiny_model_dir):
    def broken(rows, drawn):
        total = torch.full(drawn.mask.shape[:2], math.nan)
        return Scores(total, total, None, torch.zeros_like(total))

    loop = make_loop(tiny_model_dir, score=broken, guards=GuardConfig(max_skipped=1))
    before = weights_of(loop)
    assert run(loop, 1)[0]["update/skipped"] == 1
    assert moved(before, weights_of(loop)) == 0
    with pytest.raises(Breach, match=r"not finite in 2 .*: objective/scores is nan and objective/reward is nan"):
        run(loop, 1)


def test_heads_that_disagree_hold_the_policy_tighter(tiny_model_dir):
    def doubtful(rows, drawn):
        total = torch.ones(drawn.mask.shape[:2])
        return Scores(total, total, None, 2 * total)

    loop = make_loop(tiny_model_dir, score=doubtful, kl=KlConfig(coefficient=0.1))
    assert run(loop, 1)[0]["guards/cooled"] == 1 and loop.kl.coefficient == 0.2
    loop = make_loop(tiny_model_dir, score=doubtful, guards=GuardConfig(hacking="stop"))
    with pytest.raises(Breach, match=r"heads differ by 2\.00 held-out deviations .* \(iteration 1\)"):
        run(loop, 1)


@pytest.mark.parametrize("of_steps", [0.0, 0.5])
def test_every_answer_is_noted_before_it_is_trained_on(tiny_model_dir, of_steps):
    """With the rewards of its steps, here of its first token."""

    def score(rows, drawn):
        steps = torch.zeros(drawn.mask.shape)
        steps[..., 0] = of_steps
        return replace(share_of_targets(rows, drawn), steps=steps if of_steps else None)

    loop, told = make_loop(tiny_model_dir, score=score), []
    loop.note = lambda iteration, rows, drawn, scores: told.append((iteration, answer_figures(rows, drawn, scores)))
    figures = run(loop, 2)
    assert [iteration for iteration, _ in told] == [1, 2]
    for (_, answers), means in zip(told, figures, strict=True):
        assert len(answers) == 16
        for name, mean in {"total": "objective/reward", "kl": "objective/kl", "tokens": "rollout/tokens"}.items():
            assert sum(answer[name] for answer in answers) / 16 == pytest.approx(means[mean], abs=1e-4)


def test_draws_differ_by_iteration_and_worker(tiny_model_dir):
    loop = make_loop(tiny_model_dir)
    seeds = []
    loop.rollouts.draw = lambda prompts, samples, seed, greedy: seeds.append(seed) or [[Answer([5], [0.0], True)]]
    for rank, iteration in itertools.product(range(3), range(50)):
        loop.settings = Settings(**{**vars(loop.settings), "rank": rank, "workers": 3})
        loop.iteration = iteration
        loop.draw(rows_of(PROMPTS[:1]))
    assert len(set(seeds)) == 150
