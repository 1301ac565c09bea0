"""A scripted index, for strategies that search by themselves."""

import asyncio
from dataclasses import replace

from components.reasoning.events import Found, Piece
from tests.components.reasoning.fakes import tools


class Index:
    """Finds for each question the passages that it is told, by their ids, and keeps what it was asked.

    `finds` maps a question, or a word in it, to ids, to an exception that is raised, or to "hang".
    """

    def __init__(self, finds):
        self.finds, self.asked = finds, []

    async def __call__(self, question):
        self.asked.append(question)
        found = next((ids for word, ids in self.finds.items() if word in question), [])
        if isinstance(found, Exception):
            raise found
        if found == "hang":
            await asyncio.sleep(30)
        return [{"passage_id": each, "title": f"title {each}", "text": f"text of {each}"} for each in found]


def searching(model, index, **fields):
    """Tools over a scripted model and a scripted index."""
    return replace(tools(model, index=True, **fields), retrieve=index)


def given(events):
    """The ids of the passages that the answer was given: those of the last event that tells."""
    told = [event for event in events if isinstance(event, Found)]
    return [passage["passage_id"] for passage in told[-1].passages] if told else None


def extras(events):
    return {key: value for event in events if isinstance(event, Piece) for key, value in event.extra.items()}
