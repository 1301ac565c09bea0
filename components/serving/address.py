"""Where a server listens: a free port, or the address of a Serve that runs already; and what that one runs."""

import asyncio
import socket
from typing import Any

from components.config import UserError


def free_port(host: str, port: int) -> int:
    """Return ``port`` if it can be listened on, any free port for 0. Raises UserError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): give another port=…, or 0") from error
        return int(probe.getsockname()[1])


def already_serves() -> bool:
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False) is not None


def shared_address() -> str:
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "asked only where Serve runs already"
    options = client.http_config
    return address(options.host, options.port)


def address(host: str | None, port: int) -> str:
    shown = "127.0.0.1" if host in (None, "0.0.0.0", "::") else host
    return f"http://{shown}:{port}"


def check_name_free(application: str) -> None:
    """Raise a UserError where the Serve that runs already has this application: a second one would replace it."""
    from ray import serve

    there = serve.status().applications.get(application)
    if there is not None and there.status not in ("NOT_STARTED", "DEPLOY_FAILED", "DELETING"):
        raise UserError(
            f"this cluster already serves an application named '{application}', which a second one would replace: end "
            "the job that serves it, or use another cluster. If that job is gone, remove what it left with "
            f"python -c \"import ray; ray.init('auto'); from ray import serve; serve.delete('{application}')\""
        )


async def runs(engine: Any) -> bool:
    """Return whether the deployment behind a handle has a replica that runs."""
    from ray import serve

    status = await asyncio.to_thread(serve.status)
    states = status.applications[engine.app_name].deployments[engine.deployment_name].replica_states
    return states.get("RUNNING", 0) > 0
