"""Budgets of API keys: one ledger for every replica of the ingress, and one account for each request.

A request reserves what it may need before it starts, which caps its own budget, and settles with what it used when it
ends, however it ends. A key's first request opens its window; what is reserved in a window counts in that window, so
that no window gives away more than the limits.

The ledger is a deployment with one replica: a Ray actor that Serve starts, restarts and ends with the application. It
keeps its counts in memory. When it dies, requests that run end well, new ones get 503 for the seconds until Serve has
started another, and every window begins anew: a crash may give a key one more budget. Letting requests pass uncounted
instead would give it as many as it can send.
"""

import asyncio
import contextvars
import logging
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.reasoning.budget import KINDS, Budget, Limits
from components.serving.errors import ApiError
from components.serving.metrics import Metrics
from components.serving.settings import KeyBudgets

logger = logging.getLogger(__name__)
Amounts = dict[str, float]  # by kind: requests, and those of a request's own budget
NOTHING = {"tokens": 0, "samples": 0, "tool_calls": 0}  # what a search and an embedding want
_FORGOTTEN_AFTER_S = 900.0  # reservations of an ingress that died; a request that takes longer still settles
_PATIENCE_S = 2.0  # with a ledger that does not answer


@dataclass
class _Window:
    ends: float
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    used: Amounts = field(default_factory=lambda: defaultdict(float))
    held: dict[str, tuple[float, Amounts]] = field(default_factory=dict)  # receipt → since when, what

    def free(self, kind: str, limit: float) -> float:
        return max(0.0, limit - self.used[kind] - sum(amounts.get(kind, 0) for _, amounts in self.held.values()))


class Ledger:
    """What each key has used and reserved in its window; no method awaits, so that each is one step for all callers."""

    def __init__(self, budgets: KeyBudgets, clock: Callable[[], float] = time.monotonic) -> None:
        self._budgets, self._clock = budgets, clock
        self._windows: dict[str, _Window] = {}

    async def reserve(
        self, name: str, receipt: str, wanted: Mapping[str, float | None], least_tokens: int = 1
    ) -> dict[str, Any]:
        """Reserve what a request may need under its ``receipt``, all of it or nothing.

        Returns:
            ``granted`` (kind → amount, of limited kinds only), or ``refused`` (the kinds that are short) and
            ``retry_after_s`` (none: as soon as a request that runs gives back what it does not use); ``window``, and
            ``standing`` (kind → limit, what is free, seconds until the window ends).

        Args:
            wanted: kind → the most it can use; 0 leaves a kind out, none is the share of the limit.
            least_tokens: with fewer it cannot begin. Without tool calls it can.
        """
        window, limits = self._window(name), self._budgets.of(name).model_dump(exclude_none=True)
        granted: Amounts = {}
        short = []
        for kind, limit in limits.items():
            most = wanted.get(kind)
            if most == 0:
                continue
            amount = min(limit * self._budgets.share if most is None else most, free := window.free(kind, limit))
            if kind != "seconds":
                amount = min(max(1, math.floor(amount)), math.floor(free))
            if amount < _least(kind, least_tokens):
                short.append(kind)
            granted[kind] = amount
        now = self._clock()
        answer: dict[str, Any] = {"window": window.number}
        if short:
            spent = any(limits[kind] - window.used[kind] < _least(kind, least_tokens) for kind in short)
            answer |= {"refused": short, "retry_after_s": window.ends - now if spent else None}
        else:
            window.held[receipt] = (now, granted)
            answer["granted"] = granted
        standing = {kind: (limit, window.free(kind, limit), window.ends - now) for kind, limit in limits.items()}
        return answer | {"standing": standing}

    async def settle(self, name: str, receipt: str, window: str | None, used: Amounts) -> None:
        """Free what a request reserved, and count what it used if its window is still open.

        Args:
            window: that it was reserved in; none where nobody heard the ledger's answer.
        """
        current = self._windows.get(name)
        if current is not None:
            current.held.pop(receipt, None)
            if current.number == window:
                for kind, amount in used.items():
                    current.used[kind] += amount

    def _window(self, name: str) -> _Window:
        now, window = self._clock(), self._windows.get(name)
        if window is None or now >= window.ends:
            window = self._windows[name] = _Window(now + self._budgets.window_s)
        old = [receipt for receipt, (since, _) in window.held.items() if now - since > _FORGOTTEN_AFTER_S]
        for receipt in old:
            del window.held[receipt]
        return window


class Account:
    """One request's side of its key's budget: opened before work starts, settled when the request is over."""

    def __init__(self, ledger: Any, name: str, metrics: Metrics, retry_after_s: int) -> None:
        """Begin without asking the ledger: requests that cost nothing never do.

        Args:
            name: of the key.
            retry_after_s: what a client is told to wait where the ledger cannot say.
        """
        self.headers: dict[str, str] = {}  # as OpenAI's clients know them, once the ledger has answered
        self._ledger, self._name, self._metrics, self._retry_after_s = ledger, name, metrics, retry_after_s
        self._receipt: str | None = None
        self._window: str | None = None
        self._budget, self._began = Budget(), 0.0

    async def open(self, limits: Limits, wanted: Mapping[str, float | None], least_tokens: int = 1) -> Budget:
        """Return the budget of a request: its own ``limits``, and at most what its key can spare.

        Args:
            wanted: as ``Ledger.reserve`` takes it, without the request itself.

        Raises:
            ApiError: the key's budget is spent (429), or the ledger does not answer (503).
        """
        self._receipt, self._began = uuid.uuid4().hex, time.monotonic()
        ask = {"requests": 1, **wanted}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await self._ledger.reserve.remote(self._name, self._receipt, ask, least_tokens)
        except Exception as error:
            logger.error("the ledger of key budgets does not answer", exc_info=error)
            message = "The budget of this key cannot be looked up just now: try again shortly."
            raise ApiError(503, message, code="budget_unavailable", retry_after_s=self._retry_after_s) from error
        self._window = answer["window"]
        self.headers = _headers(answer["standing"])
        if "refused" in answer:
            self._receipt = None  # nothing is held
            raise self._refusal(answer["refused"], answer["retry_after_s"])
        # What the key can give in full is no limit: a request that ends by its own must not blame the budget.
        capped = {
            kind: amount
            for kind, amount in answer["granted"].items()
            if kind in KINDS and ((most := wanted.get(kind)) is None or amount < most)
        }
        self._budget = Budget(limits.within(Limits(**capped)))
        return self._budget

    async def settle(self, status: int) -> None:
        """Tell the ledger what was used; a second call does nothing, and no failure of the ledger reaches the client.

        What the server could not answer (5xx, 429 of a full queue) does not count as a request, what was written does.
        """
        if self._receipt is None:
            return
        receipt, self._receipt = self._receipt, None
        used: Amounts = {}
        if self._window is not None:
            used = {kind: getattr(self._budget, kind) for kind in NOTHING}
            used |= {"seconds": time.monotonic() - self._began, "requests": int(status < 500 and status != 429)}
        for kind, amount in used.items():
            self._metrics.key_spent.labels(self._name, kind).inc(amount)
        # What cancels a request cancels the calls that Serve finds in its context: the bill is a task outside of both.
        task = asyncio.create_task(self._tell(receipt, used), context=contextvars.Context())
        if used:  # else the ledger did not answer before, and nobody needs to wait for it again
            await asyncio.shield(task)

    async def _tell(self, receipt: str, used: Amounts) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._ledger.settle.remote(self._name, receipt, self._window, used)
        except Exception as error:
            logger.error("the ledger of key budgets took no bill", exc_info=error)

    def _refusal(self, kinds: list[str], wait_s: float | None) -> ApiError:
        for kind in kinds:
            self._metrics.key_refusals.labels(self._name, kind).inc()
        what = " and ".join(kind.replace("_", " ") for kind in kinds)
        if wait_s is None:
            message = f"Requests that run have reserved what the key '{self._name}' has left of its {what}: try again."
        else:
            message = f"The key '{self._name}' has spent its {what}: its next window opens in {wait_s:.0f} s."
        wait = self._retry_after_s if wait_s is None else max(1, math.ceil(wait_s))
        return ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait)


def _least(kind: str, least_tokens: int) -> float:
    """Return with how little of a kind a request can begin."""
    return {"tokens": least_tokens, "tool_calls": 0, "seconds": 1e-3}.get(kind, 1)


def _headers(standing: Mapping[str, tuple[float, float, float]]) -> dict[str, str]:
    """Return what OpenAI's clients read of a key's budget; its last part is the kind that is limited."""
    headers = {}
    for kind, (limit, free, reset_s) in standing.items():
        name = kind.replace("_", "-")
        headers[f"x-ratelimit-limit-{name}"] = f"{limit:.10g}"
        headers[f"x-ratelimit-remaining-{name}"] = f"{free:.10g}"
        headers[f"x-ratelimit-reset-{name}"] = f"{reset_s:.3f}s"
    return headers
