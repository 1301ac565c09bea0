"""The PPO loop as a Ray Train worker runs it: models, engine, resume, checkpoints, figures."""

import functools
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

from components.progress import progress
from components.training.callbacks import Breach

logger = logging.getLogger(__name__)


def ppo_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: ``model`` and ``rewards`` (folders), ``base_digest``, ``config`` (a TrainPpo's sections), ``engines``
    (names of the rollout actors) in ``namespace``, ``train`` and ``eval`` (files of rows), ``out`` (folder to
    write), ``run`` (RunHandle), ``samples`` and ``evidence`` (files), ``scores`` (folder), ``dtype``, ``seed`` and
    what ``launch`` adds.
    """
    from components.training.launch import prepare_worker, resume_point

    prepare_worker(payload)
    worker = _Worker(payload)
    found = resume_point(payload)
    if found:
        worker.load(Path(found))
    else:
        worker.forget_after(-1)
    try:
        return worker.run()
    except Breach as breach:
        worker.keep_evidence(breach)
        return {"breach": str(breach)}


class _Worker:
    """One worker's models and its place among the workers."""

    def __init__(self, payload: dict[str, Any]) -> None:
        import torch
        import torch.distributed as dist

        from components.data.chat import ChatTemplate
        from components.models.rewards import CombineConfig, RewardModel
        from components.training.ppo.control import Guards, KlControl
        from components.training.ppo.learner import DeepSpeedLearner
        from components.training.ppo.loop import PpoLoop, Settings
        from components.training.ppo.notes import Notes
        from components.training.ppo.reward import Scorer
        from components.training.ppo.roles import Roles
        from components.training.ppo.rollout import EngineRollouts
        from components.training.ppo.sections import Sections
        from components.training.ppo.workers import Workers
        from components.training.rows import read_rows

        self.payload = payload
        config = Sections(**payload["config"])
        self.config = config
        # A worker whose engine dies three times waits so long, and then says so itself.
        self.together = Workers(4 * config.rollout.deadline_s)
        self.rank, self.workers = dist.get_rank(), self.together.count
        self.template = ChatTemplate.from_folder(payload["model"])
        device = "cpu" if payload["arguments"]["use_cpu"] else "cuda"
        if device == "cuda" and config.rollout.share_gpus:  # leave what the engine needs if it has to start again
            share = config.rollout.engine_beside_training.gpu_memory_share or 0.0
            torch.cuda.set_per_process_memory_fraction(max(0.05, 0.95 - share))
        torch.manual_seed(payload["seed"])  # the same fresh adapters and heads on every worker
        self.roles = Roles(
            Path(payload["model"]),
            config.adapter,
            [Path(folder) for folder in payload["rewards"]],
            critic=config.advantage.critic if config.advantage.name == "gae" else None,
            dtype=payload["dtype"],
            device=device,
            base_digest=payload["base_digest"],
        )
        per_step = config.rollout.prompts // self.workers // config.update.minibatches
        self.learner = DeepSpeedLearner(
            self.roles.module,
            config.optim,
            config.deepspeed,
            bf16=payload["dtype"] == "bfloat16",
            passes=-(-per_step // config.update.micro_prompts),
            ratio=config.adapter.loraplus.ratio if config.adapter.name == "loraplus" else 1.0,
        )
        engines = payload["engines"]
        rollouts = EngineRollouts(
            engines[self.rank % len(engines)],
            payload["namespace"],
            config.rollout,
            [self.template.turn_end_id],
            pushes=self.rank < len(engines),
        )
        self.combine = CombineConfig(**payload["combine"])
        scorer = Scorer(
            self.roles,
            config.reward,
            self.combine,
            self.decode,
            functools.partial(_judge, config.reward.false_abstention) if payload["judge"] else None,
            config.update.micro_prompts,
        )
        settings = Settings(
            config.rollout,
            config.update,
            config.advantage,
            config.clip,
            config.reward,
            payload["seed"],
            self.rank,
            self.workers,
        )
        guards = Guards(config.guards)
        kl = KlControl(config.kl)
        self.samples = Notes(Path(payload["samples"]))
        self.scores = Notes(Path(payload["scores"]) / f"worker-{self.rank}.jsonl")
        self.loop = PpoLoop(
            settings, self.roles, self.learner, rollouts, scorer, kl, guards, self.together.sum, self._note
        )
        self.rows = read_rows(payload["train"])
        self.held_out = list(read_rows(payload["eval"])) if payload["eval"] else []
        self.unpaid = [
            RewardModel(folder, dtype=payload["dtype"], device=self.roles.device, quiet=True)
            for folder in config.guards.rewards
        ]

    def decode(self, ids: list[int]) -> str:
        """Return an answer's text without its turn end."""
        return self.template.text_of(ids)

    def run(self) -> dict[str, Any]:
        """Run what is left of the iterations, and write the policy."""
        iterations = self.config.update.iterations
        self._push(self.loop.iteration)
        figures: dict[str, float] = {}
        untrained: list[float] | None = None
        if self.held_out and self.loop.iteration == 0:  # what the answers were before any training
            untrained = self._look_at_held_out()
            self._log(self.loop.figures, 0)
        while self.loop.iteration < iterations:
            figures = self.loop.run_iteration(self._own_rows(self.loop.iteration))
            self.together.meet()
            step = self.loop.iteration
            figures["update/learning_rate"] = self.learner.rate
            if step == 1 and untrained is not None:  # the same policy gave this iteration's answers
                self.loop.guards.is_hacking(figures["objective/reward"], untrained)
            if self.held_out and (step % self.config.guards.eval_every == 0 or step == iterations):
                self._compare(figures["objective/reward"], self._look_at_held_out())
            self._log(figures, step)
            if step % self.config.save.every == 0 and step < iterations:
                self._save(step)
        self._write_policy()
        return {"steps": self.loop.iteration, **_finite(figures)}

    def _note(self, iteration: int, rows: Any, drawn: Any, scores: Any) -> None:
        from components.training.ppo.figures import show_answers
        from components.training.ppo.notes import answer_figures

        self.scores.add(iteration, answer_figures(rows, drawn, scores))
        if self.rank == 0 and not self.held_out:  # else those are what people read
            self.samples.add(iteration, show_answers(rows, drawn, scores, self.decode))

    def _own_rows(self, iteration: int) -> list[dict[str, Any]]:
        """Return this worker's part of an iteration's prompts."""
        size = self.config.rollout.prompts
        first = iteration * size + self.rank * (size // self.workers)
        return list(self.rows.select(range(first, first + size // self.workers)))

    def _push(self, version: int) -> None:
        self.loop.push(version)
        self.together.meet()

    def keep_evidence(self, breach: Breach) -> None:
        """Write what is known of the iteration that broke an invariant, into the run as well."""
        if self.rank == 0:
            known = {"breach": str(breach), "iteration": self.loop.running, **self.loop.figures}
            Path(self.payload["evidence"]).write_text(json.dumps(known | {"state": self.loop.state()}, indent=2))
            self._log(self.loop.figures, self.loop.running)

    def _look_at_held_out(self) -> list[float]:
        """Answer held-out prompts greedily, keep the answers, return each one's reward; the mean joins the figures."""
        from components.training.ppo.figures import held_out_rewards, show_answers

        drawn = self.loop.draw(self.held_out, greedy=True)
        scores = self.loop.score(self.held_out, drawn)
        # Each worker's engine drew its own answers: all go by the mean, or one would stop while others wait.
        held_out = self._means(self._unpaid(drawn) if self.unpaid else held_out_rewards(scores))
        figures = self.loop.figures
        (figures["eval/reward"],) = self._means([float(scores.raw.mean())])
        figures["eval/held_out_reward"] = sum(held_out) / len(held_out)
        if self.rank == 0:
            self.samples.add(self.loop.iteration, show_answers(self.held_out, drawn, scores, self.decode))
        return held_out

    def _compare(self, training: float, held_out: list[float]) -> None:
        """Stop the run, or hold the policy tighter, where the reward is being gamed."""
        guards = self.config.guards
        if not self.loop.guards.is_hacking(training, held_out):
            return
        seen = f"training reward rose and held-out reward fell {guards.patience} times in a row"
        found = f"{seen}: the reward is being gamed (iteration {self.loop.iteration})"
        if guards.hacking == "stop":
            if self.loop.iteration == self.config.update.iterations:  # for a person to judge; it is not published
                self._write_policy()
                found += f", whose policy, the finished one, is in {self.payload['out']}"
            raise Breach(found)
        logger.warning(found)
        self.loop.kl.cool()
        self.loop.figures["guards/cooled"] = 1.0

    def _unpaid(self, drawn: Any) -> list[float]:
        """Return what the reward models that nothing is paid by think of the answers, combined as those that pay."""
        from components.models.rewards import combine
        from components.models.step_rewards import answer_rewards

        prompts, answers = drawn.ids(range(len(drawn.prompts)))
        found = [answer_rewards(model, prompts, answers, self.decode) for model in self.unpaid]
        heads = [[x for model in found for x in model[p][0]] for p in range(len(prompts))]
        return [combine(values, self.combine) for values in heads]

    def _log(self, figures: dict[str, float], step: int) -> None:
        if self.rank == 0:
            self.payload["run"].log_metrics(_finite(figures), step)
            names = {"objective/reward": "reward", "objective/kl": "KL", "eval/held_out_reward": "held out"}
            shown = ", ".join(f"{name} {figures[key]:.2f}" for key, name in names.items() if key in figures)
            progress(step, self.config.update.iterations, f"iterations ({shown})")

    def _save(self, step: int) -> None:
        """Write a whole checkpoint, then drop the oldest."""
        import ray.train

        from components.training.checkpoints import mark_complete

        root = Path(self.payload["checkpoints"])
        folder = root / f"checkpoint-{step}"
        self.learner.save(folder)
        if self.rank == 0:
            (folder / "loop.json").write_text(json.dumps(self.loop.state()))
        self.together.meet()
        if self.rank == 0:
            mark_complete(folder, step, self.payload["run"].storage, workers=self.workers)
            known = sorted(root.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            for old in known[: -self.config.save.keep]:
                shutil.rmtree(old)
        self.together.meet()
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def load(self, folder: Path) -> None:
        """Go on from a whole checkpoint."""
        self.learner.load(folder)
        self.loop.restore(json.loads((folder / "loop.json").read_text()))
        self.forget_after(self.loop.iteration)

    def forget_after(self, iteration: int) -> None:
        """Drop what a run that was cut off noted of later iterations, and why it stopped."""
        for notes in [self.scores, *([self.samples] if self.rank == 0 else [])]:
            notes.forget_after(iteration)
        if self.rank == 0:
            Path(self.payload["evidence"]).unlink(missing_ok=True)

    def _means(self, values: list[float]) -> list[float]:
        """Return the means over the workers."""
        import torch

        return (self.loop.reduce(torch.tensor(values, dtype=torch.float64)) / self.workers).tolist()

    def _write_policy(self) -> None:
        out = Path(self.payload["out"])
        if self.rank == 0:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            self.roles.save(out, self.template.tokenizer)
        self.together.meet()


def _finite(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _judge(false_abstention: float, row: dict[str, Any], answer: str) -> float:
    """Return the judge's score, but ``false_abstention`` for abstaining where there was an answer.

    To rank answers the judge puts that above a wrong answer. As a reward it would pay a policy to stop trying:
    always abstaining is worth more than answers that are right half of the time.
    """
    from components.data.judge import judge
    from components.data.records import Question

    question = Question.from_row(json.loads(row["question_row"]))
    judged = judge(answer, question)
    return false_abstention if question.answerable and judged.abstained else judged.score
