"""The key check and the labels of the metrics, also where the app lies under a prefix."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from components.serving.edge import Edge
from components.serving.keys import key_digest
from components.serving.metrics import Metrics


@pytest.mark.parametrize("prefix", ["", "/docs", "/v1"])
def test_a_key_is_asked_for_wherever_the_app_lies(prefix):
    app, metrics = FastAPI(), Metrics()

    @app.get("/v1/models")
    @app.get("/healthz")
    def nothing() -> dict:
        return {}

    edge = Edge(
        app,
        metrics=metrics,
        key_digests=(key_digest("one"),),
        routes=["/v1/models", "/healthz"],
        account=lambda _: None,
    )

    async def statuses():
        transport = httpx.ASGITransport(edge, root_path=prefix)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = [("/v1/models", {}), ("/v1/models", {"authorization": "Bearer one"}), ("/healthz", {})]
            return [(await client.get(prefix + path, headers=headers)).status_code for path, headers in asked]

    assert asyncio.run(statuses()) == [401, 200, 200]
    assert 'raylign_requests_total{endpoint="/v1/models",status="401"} 1.0' in metrics.text().decode()
