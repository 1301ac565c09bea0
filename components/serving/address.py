"""Where a server listens: a free port, or the address of a Serve that runs already."""

import socket

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
