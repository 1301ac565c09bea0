"""A real vLLM engine on the tiny model: what it draws, how likely it found it, and which weights it holds."""

import os
import signal
import time
import uuid

import pytest
import torch

from components.models import rollout_engine
from components.models.engine import EngineConfig
from components.models.load import load_model
from components.training.ppo.rollout import EngineLost, EngineRollouts
from components.training.ppo.settings import RolloutConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PROMPTS = [[5, 6, 7, 8], [40, 41, 42, 43, 44, 45], [9] * 20]


def start(folder, name):
    engine = EngineConfig(max_model_len=128, max_sequences=8)
    namespace = uuid.uuid4().hex
    return rollout_engine.start(name, namespace, str(folder), engine, gpus=0), namespace


def rollouts(namespace, name, **changes):
    config = RolloutConfig(**{"max_new_tokens": 12, "temperature": 1.3, "deadline_s": 200.0} | changes)
    return EngineRollouts(name, namespace, config, [2])


@pytest.fixture(scope="module")
def engine(ray_cluster, tiny_model_dir):
    import ray

    actor, namespace = start(tiny_model_dir, "engine")
    yield rollouts(namespace, "engine"), actor
    ray.kill(actor)


def plain_weights(model):
    return [(name, weight.detach()) for name, weight in model.named_parameters() if not name.startswith("lm_head")]


def gap(model, drawn, prompts, temperature=1.3):
    """Largest difference of the engine's log-probabilities to those of transformers at the same temperature."""
    worst = 0.0
    for prompt, own in zip(prompts, drawn, strict=True):
        for answer in own:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer.ids])).logits[0].float() / temperature
            logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            found = torch.tensor(answer.logprobs)
            worst = max(worst, float((logprobs[range(len(found)), answer.ids] - found).abs().max()))
    return worst


def test_the_engine_follows_the_trainers_weights(engine, tiny_model_dir):
    """Every weight is changed, the embedding that is also the output head among them; bf16 rounds to 2 to 3 digits."""
    draw, _ = engine
    model = load_model(tiny_model_dir, "bfloat16")
    draw.push(lambda: plain_weights(model), 0)
    before = draw.draw(PROMPTS, 3, seed=1)
    assert gap(model, before, PROMPTS) < 0.1
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 3 * weight.float().std().nan_to_num(0.1) * torch.randn(weight.shape, generator=generator)
    stale = gap(model, before, PROMPTS)
    assert stale > 1.0  # the new weights are told from the old ones
    draw.push(lambda: plain_weights(model), 1)
    assert gap(model, draw.draw(PROMPTS, 3, seed=1), PROMPTS) < 0.1 * stale


def test_draws_are_repeatable_and_different(engine):
    draw, _ = engine
    first, again, other = (draw.draw(PROMPTS, 2, seed=seed) for seed in (5, 5, 6))
    ids = [[[answer.ids for answer in own] for own in drawn] for drawn in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0][0][0] != ids[0][0][1]
    for own in first:
        for answer in own:
            assert len(answer.ids) == len(answer.logprobs) <= 12
            assert answer.finished == (answer.ids[-1] == 2)


def test_forced_lengths(engine):
    draw, _ = engine
    forced = EngineRollouts(draw.engine, draw.namespace, draw.config.model_copy(update={"min_new_tokens": 12}), [2])
    assert {len(answer.ids) for own in forced.draw(PROMPTS, 3, seed=2) for answer in own} == {12}


def test_weights_that_did_not_arrive_whole_are_noticed(engine, tiny_model_dir, monkeypatch):
    draw, _ = engine
    model = load_model(tiny_model_dir, "bfloat16")
    monkeypatch.setattr(rollout_engine, "checksum", lambda weights: "0" * 64)  # of what was sent, on this side
    with pytest.raises(EngineLost, match="holds weights with checksum"):
        draw.push(lambda: plain_weights(model), 2)


def test_an_engine_that_is_late_is_named_and_replaced(engine, tiny_model_dir):
    draw, _ = engine
    hasty = EngineRollouts("engine", draw.namespace, draw.config.model_copy(update={"deadline_s": 1e-4}), [2])
    with pytest.raises(EngineLost, match="rollout engine engine sent no answers within"):
        hasty.draw(PROMPTS, 1, seed=0)
    model = load_model(tiny_model_dir, "bfloat16")
    draw.push(lambda: plain_weights(model), 3)
    assert len(draw.draw(PROMPTS, 1, seed=0)) == len(PROMPTS)


def test_a_killed_engine_is_replaced_and_gets_the_weights_again(engine, tiny_model_dir):
    """By whichever of the workers that share it asks first, also by one that pushes no weights as a rule."""
    import ray

    draw, actor = engine
    model = load_model(tiny_model_dir, "bfloat16")
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.5
    shares = EngineRollouts(draw.engine, draw.namespace, draw.config, [2], pushes=False)
    for each in (draw, shares):
        each.push(lambda: plain_weights(model), 4)
    before = draw.draw(PROMPTS, 2, seed=7)
    os.kill(ray.get(actor.process_id.remote()), signal.SIGKILL)
    after, again = shares.draw(PROMPTS, 2, seed=7), draw.draw(PROMPTS, 2, seed=7)
    assert shares.replaced == 1
    for drawn in (after, again):
        assert [[a.ids for a in own] for own in drawn] == [[a.ids for a in own] for own in before]
    assert ray.get(actor.state.remote())[0] == 4


def test_an_engine_that_was_restarted_between_two_questions_draws_with_the_weights(engine, tiny_model_dir):
    import ray

    draw, actor = engine
    model = load_model(tiny_model_dir, "bfloat16")
    draw.push(lambda: plain_weights(model), 5)
    before, replaced = draw.draw(PROMPTS, 2, seed=8), draw.replaced
    os.kill(ray.get(actor.process_id.remote()), signal.SIGKILL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        try:
            if ray.get(actor.state.remote())[0] == -1:
                break
        except ray.exceptions.RayActorError:
            time.sleep(1)
    after = draw.draw(PROMPTS, 2, seed=8)
    assert [[a.ids for a in own] for own in after] == [[a.ids for a in own] for own in before]
    assert draw.replaced == replaced + 1 and ray.get(actor.state.remote())[0] == 5
