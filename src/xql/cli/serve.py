"""`xql serve FILE`: actions over HTTP."""

import contextlib
import functools
import os
import signal
import socket
from pathlib import Path
from types import FrameType

import tyro

from xql.cli.console import sign_of_life
from xql.errors import InputError, Terminated, brief, reason, require

TOKEN = "XQL_TOKEN"
"""The environment variable that holds the token, which has no business in a list of processes."""

SHORTEST_TOKEN = 16

CONNECTIONS = 4
"""For each request at a time, how many connections may be open: most of them idle."""
GRACE = 10
"""Seconds that requests have to end in when the service is to stop."""


def serve(
    file: tyro.conf.Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    max_batch: int = 1024,
    max_body: int = 4_194_304,
    max_requests: int = 64,
    timeout: float = 10.0,
    refuse_unfamiliar: bool = False,
) -> None:
    """Serve an exported ONNX policy over HTTP; a file put in its place is served at once.

    Args:
        file: what `xql export RUN --format onnx` wrote.
        host: the address to listen at. Any but this machine's own needs a token: in the variable
            XQL_TOKEN, or in a file.
        port: 0 takes a free one.
        token_file: holds the token that every request must show.
        max_batch: observations in one request.
        max_body: bytes of one request.
        max_requests: at a time; one more is answered with 503.
        timeout: seconds until the whole of a request must have come, and until its answer must have
            been taken.
        refuse_unfamiliar: answer no request with an observation that lies outside of what the
            policy was trained on; without it they are answered and named.
    """
    sign_of_life(f"loading {file}")
    for module in ("fastapi", "uvicorn", "prometheus_client", "onnxruntime"):
        require(module, "serve")
    import uvicorn

    from xql.deploy.connections import impatient
    from xql.deploy.service import Limits, is_loopback, make_service

    for name, value in (
        ("max_batch", max_batch), ("max_body", max_body), ("max_requests", max_requests),
        ("timeout", timeout),
    ):  # fmt: skip
        if not value > 0:
            raise InputError(f"`{name}={value}` is not above 0")
    token = _token(token_file)
    if token is None and not is_loopback(host):
        raise InputError(
            f"`host={host}` can be reached from other machines, and no token is set",
            hint=f"set {TOKEN} or give `token_file`, or listen at 127.0.0.1",
        )
    limits = Limits(max_body, max_batch, max_requests, timeout)
    say = functools.partial(print, flush=True)
    service = make_service(file, token, limits, say, refuse_unfamiliar=refuse_unfamiliar)
    config = uvicorn.Config(
        service,
        http=impatient(timeout, CONNECTIONS * max_requests),
        log_config=None,  # warnings alone, which Python prints by itself
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
    )
    with _listening(host, port) as listening:
        address, number = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        url = f"http://{shown}:{number}"
        page = "docs" if token is None else "openapi.json"
        print(f"serving {file} at {url} (described at {url}/{page}); Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGTERM, _end)
        # uvicorn raises it again once every request is answered.
        with contextlib.suppress(KeyboardInterrupt, Terminated):
            uvicorn.Server(config).run(sockets=[listening])
    print("stopped")


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _token(path: Path | None) -> str | None:
    """From the file, else from the environment."""
    if path is None:
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            return None
        where = TOKEN
    else:
        where = str(path)
        try:
            token = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(reason(error), where=where) from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(
            f"the token has fewer than {SHORTEST_TOKEN} letters, or others than ASCII's",
            where=where,
            hint="make one: openssl rand -hex 32",
        )
    return token


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise InputError(f"`port={brief(port)}` is no port", hint="give one from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(found[0][4][:2], family=found[0][0], backlog=128)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot listen at {host}:{port}: {reason(error)}",
            hint="give another `port`, or stop what listens there",
        ) from error
