"""Answers that people rated or rewrote, as rows that a later run can train on."""

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.serving.errors import ApiError
from components.serving.requests import FeedbackRequest

TABLE = "feedback"


@dataclass(frozen=True)
class Served:
    """What was answered to a request: enough to repeat it and to make a preference row of it."""

    request_id: str
    model: str
    lineage_id: str
    prompts: Sequence[Sequence[Mapping[str, str]]]  # what each answer was to: grounded, where there is an index
    messages: Sequence[Mapping[str, str]]  # what the client sent
    answers: Sequence[str]
    passage_ids: Sequence[Sequence[str]] = ()  # that each answer was given
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def given(self, choice: int) -> tuple[Sequence[Mapping[str, str]], Sequence[str]]:
        """Return what a choice's answer was to, and the passages in it; an unknown choice counts as the first."""
        place = choice if choice < len(self.answers) else 0
        prompt = self.prompts[place] if place < len(self.prompts) else []
        return prompt, self.passage_ids[place] if place < len(self.passage_ids) else []


class RecentRequests:
    """The last requests by id, so that feedback needs to name no more than an id."""

    def __init__(self, limit: int = 2000) -> None:
        self._limit = limit
        self._served: OrderedDict[str, Served] = OrderedDict()

    def add(self, served: Served) -> None:
        """Remember a request and forget the oldest one beyond the limit."""
        self._served[served.request_id] = served
        while len(self._served) > self._limit:
            self._served.popitem(last=False)

    def get(self, request_id: str) -> Served | None:
        """Return a chat request by its answer's id or by its ``x-request-id`` header, if it is remembered."""
        return self._served.get(request_id) or self._served.get(f"chatcmpl-{request_id}")


def schema() -> Any:
    """Return the Arrow schema of the feedback table."""
    import pyarrow as pa

    from components.data.records import MESSAGE

    text = pa.string()
    return pa.schema(
        [
            ("feedback_id", text),
            ("request_id", text),
            ("model", text),
            ("lineage_id", text),
            ("prompt", pa.list_(MESSAGE)),
            ("messages", pa.list_(MESSAGE)),
            ("answer", text),
            ("rating", text),  # up, down or null
            ("preferred", text),  # the answer that the person wanted instead, or null
            ("comment", text),
            ("passage_ids", pa.list_(text)),
            ("sampling", text),  # JSON
            ("created_at", pa.float64()),  # seconds since 1970
        ]
    )


def feedback_row(feedback: FeedbackRequest, served: Served | None) -> dict[str, Any]:
    """Return the row for one piece of feedback, completed from the remembered request where there is one.

    Raises:
        ApiError: the request is not remembered and the feedback does not carry messages and answer itself,
            or it names a choice that was not given.
    """
    if served is None and (feedback.messages is None or feedback.answer is None):
        message = f"No request '{feedback.request_id}' is remembered: send its 'messages' and 'answer' along."
        raise ApiError(404, message, code="request_not_found", param="request_id")
    if served is not None and feedback.answer is None and feedback.choice >= len(served.answers):
        message = f"Request '{served.request_id}' has {len(served.answers)} choices, counted from 0."
        raise ApiError(400, message, code="invalid_value", param="choice")
    prompt, passage_ids = served.given(feedback.choice) if served else (None, [])
    own = None if feedback.messages is None else [turn.model_dump() for turn in feedback.messages]
    messages = own if own is not None else served and served.messages
    return {
        "feedback_id": uuid.uuid4().hex,
        "request_id": feedback.request_id,
        "model": feedback.model or (served.model if served else None),
        "lineage_id": served.lineage_id if served else None,
        "prompt": [dict(turn) for turn in (messages if prompt is None else prompt) or ()],
        "messages": [dict(turn) for turn in messages or ()],
        "answer": feedback.answer if feedback.answer is not None else served and served.answers[feedback.choice],
        "rating": feedback.rating,
        "preferred": feedback.preferred,
        "comment": feedback.comment,
        "passage_ids": list(passage_ids),
        "sampling": json.dumps(dict(served.sampling) if served else {}),
        "created_at": time.time(),
    }


def append(storage_uri: str, row: dict[str, Any]) -> str:
    """Write the row to the feedback table and return the table's pinned reference."""
    from components.data.store import write

    return write(storage_uri, TABLE, [row], schema=schema(), key="feedback_id")
