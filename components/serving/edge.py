"""What every HTTP request passes before a route sees it, and last: the key check, the counters, the key's bill."""

import hmac
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from components.serving.errors import ApiError
from components.serving.key_budgets import Account
from components.serving.keys import bearer_digest
from components.serving.metrics import Metrics

ACCOUNT = "raylign.account"  # where a request's scope has its key's account, if that has a budget
_KEYED = "/v1/"


class Edge:
    """ASGI middleware that asks for a key under ``/v1/`` (where there are keys) and counts what is answered.

    It also settles what a request has taken of its key's budget, as it sees the end of each, whatever that is.
    """

    def __init__(
        self,
        app: Any,
        *,
        metrics: Metrics,
        key_digests: Sequence[str],
        routes: Sequence[str],
        account: Callable[[str], Account | None],
    ) -> None:
        """Wrap an app.

        Args:
            account: from a key's digest to a new account of it; none where it has no budget.
        """
        self._app, self._metrics, self._key_digests = app, metrics, key_digests
        self._routes, self._account = set(routes), account

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request; everything but HTTP is passed on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, began = 499, time.perf_counter()  # 499: the client left before there was a status
        digest = self._allowed(scope)
        account = scope[ACCOUNT] = self._account(digest) if digest else None

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if account is not None:
                    told = [(name.encode(), value.encode()) for name, value in account.headers.items()]
                    message = {**message, "headers": [*message.get("headers", ()), *told]}
            elif account is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                await account.settle(status)  # before the client can send its next request
            await send(message)

        path = _route_path(scope)
        endpoint = path if path in self._routes else "other"
        self._metrics.in_flight.inc()
        try:
            if digest is None:
                await _refuse(counted)
            else:
                await self._app(scope, receive, counted)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.latency.labels(endpoint).observe(time.perf_counter() - began)
            if account is not None:
                await account.settle(status)

    def _allowed(self, scope: dict[str, Any]) -> str | None:
        """Return the digest of the request's key, empty where none is asked for; None where it must not pass."""
        if not self._key_digests or not _route_path(scope).startswith(_KEYED):
            return ""
        digest = bearer_digest(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
        return digest if any(hmac.compare_digest(digest, known) for known in self._key_digests) else None


def _route_path(scope: dict[str, Any]) -> str:
    """Return the path that the routes match: under a route prefix, Serve leaves the whole one in the scope."""
    path, prefix = scope["path"], scope.get("root_path", "")
    inside = prefix and (path == prefix or path.startswith(f"{prefix}/"))
    return path[len(prefix) :] if inside else path


async def _refuse(send: Any) -> None:
    error = ApiError(401, "Incorrect or missing API key: send it as 'Authorization: Bearer …'.", code="invalid_api_key")
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
