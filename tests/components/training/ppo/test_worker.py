"""What the judge pays for as a reward, and what a worker keeps of an iteration that broke an invariant."""

import json
from types import SimpleNamespace

import pytest
import torch

from components.data.grounding import ABSTENTION
from components.data.records import Question
from components.models.rewards import CombineConfig
from components.training.callbacks import Breach
from components.training.ppo import figures
from components.training.ppo.control import Guards, KlControl
from components.training.ppo.figures import Scores
from components.training.ppo.settings import GuardConfig, KlConfig, UpdateConfig
from components.training.ppo.worker import _judge, _Worker

PASSAGES = [
    {"passage_id": "c", "title": "os.fsync", "text": "os.fsync: Force write of the file to disk.", "source": "s"}
]
ASKED = Question("p", [], "What does `os.fsync` do?", "what", True, PASSAGES, 1, "Force write of the file to disk. [1]")
MISSING = Question("p", [], "What does `os.kill` do?", "missing_what", False, PASSAGES, 0, ABSTENTION)


@pytest.mark.parametrize(
    ("question", "answer", "penalty", "paid"),
    [
        (ASKED, ABSTENTION, 0.0, 0.0),  # the judge itself ranks it above a wrong answer
        (ASKED, ABSTENTION, -0.5, -0.5),
        (MISSING, ABSTENTION, -0.5, 1.0),
        (ASKED, "Force write of the file to disk. [1]", -0.5, 1.0),
    ],
)
def test_never_trying_does_not_pay(question, answer, penalty, paid):
    assert _judge(penalty, {"question_row": json.dumps(question.row())}, answer) == pytest.approx(paid)


def test_a_reward_that_is_gamed_leaves_the_look_that_showed_it(tmp_path, monkeypatch):
    """In the file as in the run, under the iteration that had run."""
    monkeypatch.setattr(figures, "show_answers", lambda *_: [])
    logged = []
    worker = _Worker.__new__(_Worker)
    worker.rank, worker.workers, worker.held_out = 0, 1, [{}]
    guards = GuardConfig(hacking="stop", patience=2)
    worker.config = SimpleNamespace(guards=guards, update=SimpleNamespace(iterations=9))
    run = SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))
    worker.payload = {"run": run, "evidence": str(tmp_path / "evidence.json")}
    worker.unpaid = []
    worker.samples = SimpleNamespace(add=lambda *_: None)
    raw = torch.tensor([[0.25]])
    worker.loop = SimpleNamespace(
        running=4,
        iteration=4,
        figures={"objective/reward": 2.0},
        draw=lambda rows, greedy: None,
        score=lambda rows, drawn: Scores(raw, raw, None, torch.zeros_like(raw)),
        reduce=lambda values: values,
        guards=SimpleNamespace(is_hacking=lambda training, held_out: (training, held_out) == (2.0, [0.25])),
        state=lambda: {"guards": {"looks": [[1.0, [0.5]], [2.0, [0.25]]]}},
    )
    with pytest.raises(Breach, match=r"fell 2 times in a row.*\(iteration 4\)") as caught:
        worker._compare(2.0, worker._look_at_held_out())
    worker.keep_evidence(caught.value)
    known = {"objective/reward": 2.0, "eval/reward": 0.25, "eval/held_out_reward": 0.25}
    assert logged == [(4, known)]
    kept = json.loads((tmp_path / "evidence.json").read_text())
    assert kept == {"breach": str(caught.value), "iteration": 4, **known, "state": worker.loop.state()}


def gamed(guards, iterations):
    """A worker whose training reward rises by 1 an iteration from 1, and whose held-out reward falls from 0."""
    worker = _Worker.__new__(_Worker)
    worker.rank, worker.workers, worker.held_out = 0, 1, [{}]
    worker.config = SimpleNamespace(
        guards=guards, update=SimpleNamespace(iterations=iterations), save=SimpleNamespace(every=1000)
    )
    loop = SimpleNamespace(iteration=0, figures={}, guards=Guards(guards), kl=KlControl(KlConfig(coefficient=0.1)))
    worker.loop, worker.together = loop, SimpleNamespace(meet=lambda: None)
    worker.learner = SimpleNamespace(rate=1e-4)

    def run_iteration(rows):
        loop.iteration += 1
        loop.figures = {"objective/reward": float(loop.iteration)}
        return loop.figures

    loop.run_iteration = run_iteration
    worker.cooled, worker.written = [], []
    worker._own_rows = worker._push = lambda *_: None
    worker._look_at_held_out = lambda: [-float(loop.iteration)]
    worker._log = lambda figures, step: worker.cooled.extend([step] if "guards/cooled" in figures else [])
    worker._write_policy = lambda: worker.written.append(loop.iteration)
    return worker


@pytest.mark.parametrize(
    ("guards", "iterations", "cooled"),
    [
        (GuardConfig(), UpdateConfig().iterations, [4, 6, 8, 10]),  # looks before training, at 2, 4 …
        (GuardConfig(eval_every=4), 24, [8, 12, 16, 20, 24]),
        (GuardConfig(eval_every=3, patience=1), 7, [3, 6, 7]),
        # Before training and after its first iteration the training reward is the same one.
        (GuardConfig(eval_every=1), 5, [3, 4, 5]),
        (GuardConfig(eval_every=1, patience=1), 3, [2, 3]),
    ],
)
def test_a_reward_that_is_gamed_is_seen_at_the_first_look_that_can_show_it(guards, iterations, cooled):
    worker = gamed(guards, iterations)
    worker.run()
    assert worker.cooled == cooled
    assert worker.loop.kl.coefficient == pytest.approx(min(0.1 * 2 ** len(cooled), 1.6))
    last = range(1, iterations)
    assert guards.looks_in(iterations) == guards.patience + sum(step in last for step in cooled)


@pytest.mark.parametrize(("iterations", "written"), [(6, []), (4, [4])])
def test_a_finished_policy_is_kept_though_its_last_look_shows_that_the_reward_was_gamed(iterations, written):
    worker = gamed(GuardConfig(hacking="stop"), iterations)
    worker.payload = {"out": "runs/1/.trained"}
    with pytest.raises(
        Breach, match=r"\(iteration 4\)" + (r", whose policy.* is in runs/1/\.trained" if written else "$")
    ):
        worker.run()
    assert worker.written == written


def test_the_look_before_training_is_not_made_again_where_a_run_goes_on():
    worker = gamed(GuardConfig(eval_every=2), 4)
    worker.loop.iteration = 2  # from a checkpoint, with its looks
    worker.loop.guards.looks = [(1.0, [0.0]), (2.0, [-2.0])]
    worker.run()
    assert worker.loop.guards.looks == [(1.0, [0.0]), (2.0, [-2.0]), (4.0, [-4.0])] and worker.cooled == [4]


def test_reward_models_that_nothing_is_paid_by_say_what_held_out_answers_are_worth():
    """Two models with two heads and one, two answers: the lowest head of each answer."""

    def rewards(*values):
        return SimpleNamespace(
            info=SimpleNamespace(kind="outcome"), score=lambda prompts, answers: [[x] for x in values]
        )

    worker = _Worker.__new__(_Worker)
    worker.combine = CombineConfig(name="min")
    worker.unpaid = [rewards([1.0, 2.0], [5.0, -3.0]), rewards([0.5], [4.0])]
    drawn = SimpleNamespace(prompts=[[1], [2]], ids=lambda numbers: ([[1], [2]], [[[3]], [[4]]]))
    assert worker._unpaid(drawn) == pytest.approx([0.5, -3.0])
