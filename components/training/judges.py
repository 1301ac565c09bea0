"""The judges of a model's own answers: a program, reward models, or a language model that compares.

Each returns, for every prompt, what it makes of the answers (``verdicts.Judged``), and figures of its own.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import model_validator

from components.config import Config, Field, InputPath, ModelRef, UserError
from components.data.chat import ChatTemplate
from components.data.records import content_hash
from components.data.verdicts import ComparisonConfig, Judged, compare
from components.models.engine import EngineConfig, Sampling
from components.models.rewards import CombineConfig, RewardInfo, combine, disagreement
from components.progress import progress
from components.training.reference import ScoringConfig

Rows = Sequence[Mapping[str, Any]]
Answers = Sequence[Sequence[str]]


class JudgeEngine(EngineConfig):
    """The judge's engines: what it reads is a prompt with two answers."""

    max_model_len: int = Field(2048, ge=32, description="longest request plus verdict, in tokens")


class LlmConfig(ComparisonConfig):
    """The language model that compares."""

    model: ModelRef | None = Field(None, description="the model that judges; it may be the one that is judged")
    max_new_tokens: int = Field(8, ge=1, description="longest reply: more for a judge that thinks first")
    engine: JudgeEngine = Field(JudgeEngine(), description="its engines")


class JudgeConfig(Config):
    """Who says which answer is better; a section that belongs to another judge is an error."""

    name: Literal["programmatic", "reward", "llm"] = Field(
        "programmatic",
        description="programmatic: cited, grounded, abstained where it should (needs questions; scores 0 to 1); "
        "reward: reward models (in deviations from their mean); llm: a model that compares (share of comparisons won)",
    )
    rewards: list[InputPath] = Field([], description="reward: folders of reward models, as train_reward makes them")
    combine: CombineConfig = Field(CombineConfig(), description="reward: how several heads and models make one reward")
    scoring: ScoringConfig = Field(
        ScoringConfig(), description="reward: how they are run (for a pair read a prompt with its answers)"
    )
    llm: LlmConfig = Field(LlmConfig(), description="llm: the model, what it is told, how its reply is read")

    @model_validator(mode="after")
    def _sections_fit_the_name(self) -> "JudgeConfig":
        own = {"programmatic": (), "reward": ("rewards", "combine", "scoring"), "llm": ("llm",)}
        plain = type(self).model_fields
        for name, keys in own.items():
            for key in keys if name != self.name else ():
                if getattr(self, key) != plain[key].default:
                    raise UserError(f"judge.{key} is set, but judge.name is {self.name}: set judge.name={name}")
        if self.name == "reward" and not self.rewards:
            raise UserError("judge.name=reward needs judge.rewards: folders of reward models")
        if self.name == "llm" and self.llm.model is None:
            raise UserError("judge.name=llm needs judge.llm.model: the model that judges")
        return self


class Judge(Protocol):
    """Says which answers are better."""

    @property
    def digest(self) -> str:
        """The hash of all that decides its verdicts."""

    def __call__(self, rows: Rows, answers: Answers) -> tuple[list[Judged], dict[str, float]]:
        """Return what it makes of the answers to each row's prompt, and figures of its own; needs a Ray session."""


def make(config: JudgeConfig, policy: Path, template: ChatTemplate, cache: Path, seed: int) -> Judge:
    """Return the judge that the configuration names.

    Raises:
        UserError: there is no such model, or a reward model reads another chat template than the policy's.
    """
    if config.name == "programmatic":
        return Programmatic()
    if config.name == "reward":
        return Rewards.of(config, policy, template)
    return LanguageModel.of(config.llm, cache, seed)


class Programmatic:
    """The judge of grounded answers; see ``components.data.judge``."""

    def __init__(self) -> None:
        from components.data import english, grounding, judge

        self.digest = content_hash(*(inspect.getsource(module) for module in (english, grounding, judge)))

    def __call__(self, rows: Rows, answers: Answers) -> tuple[list[Judged], dict[str, float]]:
        """As ``Judge``; ``rows`` are those of ``QUESTION``."""
        from components.data.judge import judge
        from components.data.records import Question

        questions = [Question.from_row(dict(row)) for row in rows]
        judged = [[judge(text, asked) for text in own] for asked, own in zip(questions, answers, strict=True)]
        every = [one for own in judged for one in own]
        shares = {
            "judge/grounded": sum(one.grounded for one in every) / max(1, len(every)),
            "judge/abstained": sum(one.abstained for one in every) / max(1, len(every)),
        }
        return [Judged([one.score for one in own]) for own in judged], shares


@dataclass(frozen=True)
class Rewards:
    """One or several reward models, run by Ray Data."""

    folders: list[str]
    policy: Path  # whose chat template they read
    combine: CombineConfig
    scoring: ScoringConfig
    digest: str

    @classmethod
    def of(cls, config: JudgeConfig, policy: Path, template: ChatTemplate) -> "Rewards":
        """Return the judge. Raises UserError where a model is none, or reads another chat template."""
        from components.models.folder import digest

        parts = [json.dumps(config.combine.model_dump())]
        for folder in config.rewards:
            RewardInfo.read_for(Path(folder), template.digest)
            parts.append(digest(Path(folder)))
        return cls(list(config.rewards), policy, config.combine, config.scoring, content_hash(*parts))

    def __call__(self, rows: Rows, answers: Answers) -> tuple[list[Judged], dict[str, float]]:
        """As ``Judge``."""
        heads: list[list[list[float]]] = [[] for _ in rows]
        for number, values in self._scored(rows, answers):
            heads[number] = values
            progress(sum(map(bool, heads)), len(rows), "prompts judged")
        spread = [disagreement(values) for own in heads for values in own]
        judged = [Judged([combine(values, self.combine) for values in own]) for own in heads]
        return judged, {"judge/disagreement": sum(spread) / max(1, len(spread))}

    def _scored(self, rows: Rows, answers: Answers) -> Iterator[tuple[int, list[list[float]]]]:
        """Yield (number of the row, rewards of all models' heads for each answer)."""
        import ray.data

        from components.config import CPU_ENV

        how = self.scoring
        cores = how.cores()
        requests = [
            {"number": number, "request": json.dumps([row["prompt"], list(own)])}
            for number, (row, own) in enumerate(zip(rows, answers, strict=True))
            if own
        ]
        scored = ray.data.from_items(
            requests, override_num_blocks=max(1, -(-len(requests) // how.batch_pairs))
        ).map_batches(
            RewardScorer,
            fn_constructor_args=(self.folders, str(self.policy), how.max_batch_tokens, cores, bool(how.gpu)),
            batch_size=how.batch_pairs,
            compute=ray.data.ActorPoolStrategy(size=how.actors),
            num_cpus=cores,
            num_gpus=1 if how.gpu else None,
            runtime_env={"env_vars": {**CPU_ENV, "OMP_NUM_THREADS": str(cores)}},
        )
        for row in scored.iter_rows():
            yield int(row["number"]), json.loads(row["heads"])


class RewardScorer:
    """A Ray Data actor that holds all reward models."""

    def __init__(self, folders: Sequence[str], policy: str, max_batch_tokens: int, threads: int, gpu: bool) -> None:
        from components.models.load import set_threads
        from components.models.rewards import RewardModel
        from components.training.reward_measure import scorer

        set_threads(threads)
        how: dict[str, Any] = {"max_batch_tokens": max_batch_tokens, "device": "cuda" if gpu else "cpu"}
        template = ChatTemplate.from_folder(policy)
        self.scorers = [scorer(RewardModel(folder, **how), template) for folder in folders]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add ``heads``: JSON of the rewards [answers][heads of all models] of each row's answers."""
        requests: list[Any] = []
        for text in batch["request"]:
            prompt, answers = json.loads(text)
            requests.append((prompt, [[{"role": "assistant", "content": answer}] for answer in answers]))
        by_model = [score(requests) for score in self.scorers]
        heads = [
            [[value for of_model in own for value in of_model[place]] for place in range(len(own[0]))]
            for own in zip(*by_model, strict=True)
        ]
        return {"number": batch["number"], "heads": [json.dumps(own) for own in heads]}


@dataclass(frozen=True)
class LanguageModel:
    """A model that compares answers two at a time, in both orders."""

    folder: Path
    config: LlmConfig
    seed: int
    digest: str

    @classmethod
    def of(cls, config: LlmConfig, cache: Path, seed: int) -> "LanguageModel":
        """Return the judge, its model fetched if it must be. Raises UserError where there is no such model."""
        from components.models import sources

        folder = sources.resolve(str(config.model), cache)
        asked = json.dumps([config.template, config.verdict, config.comparisons, config.max_new_tokens])
        return cls(folder, config, seed, content_hash(sources.digest(folder, cache), asked))

    def __call__(self, rows: Rows, answers: Answers) -> tuple[list[Judged], dict[str, float]]:
        """As ``Judge``."""
        return compare([row["prompt"] for row in rows], answers, self._generate, self.config, self.seed)

    def _generate(self, told: Sequence[str]) -> list[str]:
        from components.models.engine import sample

        template = ChatTemplate.from_folder(self.folder)
        prompts = [{"prompt_ids": template.prompt_ids([{"role": "user", "content": text}])} for text in told]
        greedy = Sampling(n=1, temperature=0.0, max_new_tokens=self.config.max_new_tokens)
        return [reply["text"] for reply in sample(prompts, self.folder, greedy, self.config.engine)]
