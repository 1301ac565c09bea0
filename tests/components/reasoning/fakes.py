"""A scripted model and what else a strategy is handed."""

import asyncio

from components.reasoning.budget import Budget, Limits
from components.reasoning.events import Piece, Tools
from components.reasoning.metered import metered

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]


class Script:
    """Answers calls with scripted texts, a word at a time, and keeps what it was asked.

    `replies` are texts in the order of calls, or a function of (messages, number of the call); an exception in its
    place is raised. `wait_s` is slept before each word; `gate` (an event) holds every call back until it is set.
    """

    def __init__(self, *replies, wait_s=0.0):
        self.replies, self.calls, self.wait_s = list(replies), [], wait_s
        self.running, self.most, self.closed = 0, 0, 0

    async def __call__(self, messages, *, max_tokens=None, temperature=None, stop=(), final=False):
        number = len(self.calls)
        self.calls.append(
            {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, "stop": tuple(stop)}
            | {"final": final}
        )
        reply = self.replies[0] if callable(self.replies[0]) else self.replies[number]
        reply = reply(messages, number) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        words = reply.split(" ") if reply else []
        kept = words if max_tokens is None else words[:max_tokens]
        self.running += 1
        self.most, ended = max(self.most, self.running), False
        try:
            for place, word in enumerate(kept):
                await asyncio.sleep(self.wait_s)
                yield Piece(word if place == 0 else " " + word)
            yield Piece(finish_reason="stop" if len(kept) == len(words) else "length")
            yield Piece(prompt_tokens=10, completion_tokens=len(kept))
            ended = True
        finally:
            self.running -= 1
            self.closed += not ended

    def asked(self, number):
        """The last message of a call."""
        return self.calls[number]["messages"][-1]["content"]


def ground(messages, passages):
    listed = " ".join(passage["text"] for passage in passages)
    return [{"role": "user", "content": f"{listed} | {messages[-1]['content']}"}]


async def retrieve(question):
    return [{"passage_id": "p1", "text": f"about {question}", "title": "a page"}]


async def hang(*_):
    """An index, a scorer or an embedder that does not answer."""
    await asyncio.sleep(30)


def tools(model, *, index=False, max_tokens=None, limits=None, clock=None, **fields):
    """Tools over a scripted model; `limits` are those of its budget."""
    budget = Budget(Limits(**(limits or {})), **({"clock": clock} if clock else {}))
    return Tools(metered(model, budget), retrieve if index else None, ground, max_tokens, budget, **fields)


def run(events):
    async def collect():
        return [event async for event in events]

    return asyncio.run(collect())


def text(events, channel="content"):
    return "".join(e.text for e in events if isinstance(e, Piece) and e.channel == channel)


def reasons(events):
    return [e.finish_reason for e in events if isinstance(e, Piece) and e.channel == "content" and e.finish_reason]
