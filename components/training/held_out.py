"""A model on what no training has seen: its answers to questions, judged, and the pairs that it ranks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.data.chat import ChatTemplate
from components.models.engine import EngineConfig, Sampling

if TYPE_CHECKING:
    from components.tracking.run import Run

Metrics = dict[str, dict[str, float]]  # metric → {mean, low, high, n}: 95 % bootstrap intervals


@dataclass(frozen=True)
class HeldOut:
    """The model, and the run that its figures belong to."""

    model: Path
    template: ChatTemplate
    run: "Run"
    seed: int

    def answer(
        self, questions: str, sampling: Sampling, engine: EngineConfig, limit: int | None = None
    ) -> tuple[Metrics, Path]:
        """Return figures of the answers to the test questions, and the file with every answer and its judgement.

        Raises:
            UserError: the table is missing or has no test questions, or a prompt is too long for the engine.
        """
        from components.data import evaluation, store
        from components.models import engine as engines

        table = store.pin(questions)
        self.run.log_dataset("questions", table, "evaluation")
        asked = evaluation.held_out_questions(table, limit)
        prompts = [{"prompt_ids": self.template.prompt_ids(question["prompt"])} for question in asked]
        answers = engines.sample(prompts, self.model, sampling, engine)
        path = evaluation.write_answers(self.run.dir / "answers.jsonl", asked, answers)
        self.run.log_artifact(path)
        return evaluation.evaluate_answers(asked, answers, seed=self.seed), path

    def rank(self, preferences: str, limit: int | None = None) -> Metrics:
        """Return the share of the test pairs that the model ranks as the judge (or the person) did.

        Raises:
            UserError: the table is missing or has no test pairs.
        """
        from components.data import evaluation, store
        from components.models import prefix_scores

        table = store.pin(preferences)
        self.run.log_dataset("preferences", table, "evaluation")
        pairs = evaluation.held_out_pairs(table, limit)
        coded = [self.template.pair(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
        prompts = [pair.prompt_ids for pair in coded]
        scores = prefix_scores.mean_logprobs(
            self.model, prompts, [(pair.chosen_ids, pair.rejected_ids) for pair in coded]
        )
        return evaluation.evaluate_pairs(pairs, scores, seed=self.seed)
