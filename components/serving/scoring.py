"""The deployment that scores answers with a reward model, beside the engine."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any


class ScoreServer:
    """Holds a reward model; a process reward model scores an answer by its worst step."""

    def __init__(self, folder: str, model: str) -> None:
        """Load the reward model in ``folder``, which reads prompts as the served ``model`` does."""
        from components.data.chat import ChatTemplate
        from components.models.rewards import RewardModel

        self._template, self._rewards = ChatTemplate.from_folder(model), RewardModel(folder, quiet=True)

    async def score(self, messages: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
        """Return how good each answer is, in held-out deviations from the held-out mean; more is better."""
        return await asyncio.to_thread(self._score, messages, answers)

    def _score(self, messages: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
        from components.models.step_rewards import answer_rewards

        prompt = self._template.prompt_ids([_plain(message) for message in messages])
        conversation = [_plain(message) for message in messages]
        coded = [self._template.completion_ids(conversation, answer) for answer in answers]
        (heads_of_answers,) = answer_rewards(self._rewards, [prompt], [coded], self._template.text_of)
        return [_mean(heads) for heads in heads_of_answers]


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    from components.reasoning.events import text_of

    role = message["role"]  # the engine reads a developer's message, which is OpenAI's newer name of a system's
    return {"role": "system" if role == "developer" else role, "content": text_of(dict(message))}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
