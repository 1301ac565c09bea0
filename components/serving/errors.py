"""Every failure as an OpenAI error object."""

import logging
from typing import Any

from components.config import UserError
from components.serving.filters import TAGS

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """A failure that the client is told about: the fields of an OpenAI error, and its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {
            "error": {"message": str(self), "type": error_type(self.status), "param": self.param, "code": self.code}
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def error_type(status: int) -> str:
    """Return OpenAI's error type of an HTTP status."""
    by_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return by_status.get(status, "invalid_request_error" if status < 500 else "server_error")


def unknown_model(name: object, known: list[str]) -> ApiError:
    """Return the error for a name that is not served."""
    message = f"The model '{name}' does not exist. Models that do: {', '.join(known)}."
    return ApiError(404, message, code="model_not_found", param="model")


def from_engine(error: dict[str, Any]) -> ApiError:
    """Return the error that an engine answered with; one without a usable status is the engine's own failure."""
    status = error.get("code")
    status = status if isinstance(status, int) and 400 <= status < 600 else 500
    message = str(error.get("message") or "The engine failed.")
    too_long = status == 400 and "context length" in message
    return ApiError(status, message, code="context_length_exceeded" if too_long else None, param=error.get("param"))


def from_exception(error: BaseException, retry_after_s: int) -> ApiError:
    """Return what a client may know of an exception from Ray or from the engine; the log gets the rest."""
    from ray.exceptions import RayActorError, RayError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(error, ApiError):
        return error
    cause = getattr(error, "cause", None) or error  # Ray wraps what a deployment raised
    if isinstance(cause, UserError):
        return ApiError(400, str(cause), code="invalid_value")
    if isinstance(error, BackPressureError):
        message = "All places in the queue are taken: try again shortly."
        return ApiError(429, message, code="rate_limit_exceeded", retry_after_s=retry_after_s)
    logger.error("a request failed", exc_info=error)
    dead = isinstance(error, (RayActorError, DeploymentUnavailableError)) or "EngineDead" in type(error).__name__
    if dead or (isinstance(error, RayError) and "EngineDead" in str(error)):
        message = "The engine is not available; it is being restarted."
        return ApiError(503, message, code="engine_unavailable", retry_after_s=retry_after_s)
    return ApiError(500, "The server failed while it was answering.", code="internal_error")


def from_validation(problems: list[Any]) -> ApiError:
    """Return the error for the first of pydantic's complaints about a body."""
    first = problems[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "header", *TAGS)]
    if (first["type"] in ("json_invalid", "missing") and not path) or first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    param = ".".join(path) or None
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"Invalid value for '{param}': {message}", code="invalid_value", param=param)
