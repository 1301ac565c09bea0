"""HTTP onto hot-swapping: who may change what is served, and the paths for it."""

import hmac
from collections.abc import Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request

from components.serving.errors import ApiError
from components.serving.hot_swap import HotSwap
from components.serving.keys import bearer_digest
from components.serving.requests import AdapterRequest, AliasRequest


def add_adapter_routes(app: FastAPI, swap: HotSwap, admin_digests: Sequence[str]) -> None:
    """Add ``/v1/adapters`` to the app; what changes something asks for one of the admin keys."""

    def admin(request: Request) -> None:
        if not admin_digests:
            message = "Nobody may change this server's adapters: start it with admin_keys=… to say who may."
            raise ApiError(403, message, code="no_admin_keys")
        given = bearer_digest(request.headers.get("authorization", ""))
        if not any(hmac.compare_digest(given, known) for known in admin_digests):
            raise ApiError(403, "This key may not change the server's adapters.", code="not_an_admin_key")

    @app.get("/v1/adapters")
    async def adapters() -> dict[str, Any]:
        return swap.page()

    @app.post("/v1/adapters", dependencies=[Depends(admin)])
    async def load(body: AdapterRequest) -> dict[str, Any]:
        return await swap.load(body)

    @app.post("/v1/adapters/aliases", dependencies=[Depends(admin)])
    async def move(body: AliasRequest) -> dict[str, Any]:
        return await swap.move(body)

    @app.delete("/v1/adapters/{address}", dependencies=[Depends(admin)])
    async def remove(address: str) -> dict[str, Any]:
        return await swap.remove(address)
