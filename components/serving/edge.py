"""What every HTTP request passes before a route sees it: the key check, and the counters."""

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

from components.serving.errors import ApiError
from components.serving.metrics import Metrics

_KEYED = "/v1/"


class Edge:
    """ASGI middleware that asks for a key under ``/v1/`` (where there are keys) and counts what is answered."""

    def __init__(self, app: Any, *, metrics: Metrics, key_digests: Sequence[str], routes: Sequence[str]) -> None:
        self._app, self._metrics, self._key_digests = app, metrics, key_digests
        self._routes = set(routes)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request; everything but HTTP is passed on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, began = 499, time.perf_counter()  # 499: the client left before there was a status

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        endpoint = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.in_flight.inc()
        try:
            if scope["path"].startswith(_KEYED) and not self._is_allowed(scope):
                await _refuse(counted)
            else:
                await self._app(scope, receive, counted)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.latency.labels(endpoint).observe(time.perf_counter() - began)

    def _is_allowed(self, scope: dict[str, Any]) -> bool:
        if not self._key_digests:
            return True
        digest = bearer_digest(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
        return any(hmac.compare_digest(digest, known) for known in self._key_digests)


def key_digest(key: str) -> str:
    """Return the SHA-256 under which a key is kept: the key itself stays with whoever started the server."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer_digest(authorization: str) -> str:
    """Return the digest of the key in an ``Authorization`` header."""
    return key_digest(authorization.removeprefix("Bearer ").strip())


async def _refuse(send: Any) -> None:
    error = ApiError(401, "Incorrect or missing API key: send it as 'Authorization: Bearer …'.", code="invalid_api_key")
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
