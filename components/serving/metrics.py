"""What ``/metrics`` shows: requests, tokens, time to first token, latency, citations, feedback."""

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one ingress replica, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._make(Counter, "raylign_requests", "HTTP requests", ["endpoint", "status"])
        self.in_flight = self._make(Gauge, "raylign_requests_in_flight", "HTTP requests being answered", [])
        self.tokens = self._make(Counter, "raylign_tokens", "tokens read and written", ["model", "kind"])
        self.first_token = self._make(
            Histogram, "raylign_time_to_first_token_seconds", "request to first streamed token", ["model"]
        )
        self.latency = self._make(Histogram, "raylign_request_seconds", "request to last byte", ["endpoint"])
        self.retrieval = self._make(Histogram, "raylign_retrieval_seconds", "question to passages", [])
        self.citations = self._make(Counter, "raylign_citations", "citations in answers", ["model", "verdict"])
        self.abstentions = self._make(Counter, "raylign_abstentions", "answers that abstain", ["model"])
        self.feedback = self._make(Counter, "raylign_feedback", "feedback rows written", ["rating"])
        self.budgets = self._make(
            Counter, "raylign_budgets_spent", "answers that a budget cut short", ["model", "limit"]
        )
        self.key_spent = self._make(Counter, "raylign_key_spent", "what keys with a budget used", ["key", "kind"])
        self.key_refusals = self._make(
            Counter, "raylign_key_refusals", "requests refused as their key's budget is spent", ["key", "kind"]
        )
        self.engine = self._make(Gauge, "raylign_engine_requests", "requests in the engine by state", ["state"])

    def _make(self, kind: Any, name: str, description: str, labels: list[str]) -> Any:
        extra = {"buckets": _SECONDS} if kind is Histogram else {}
        return kind(name, description, labels, registry=self.registry, **extra)

    def text(self) -> bytes:
        """Return Prometheus's text format."""
        return generate_latest(self.registry)
