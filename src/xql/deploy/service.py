"""A policy as an HTTP service: actions, health, metrics and its own description.

The application holds one `ServedPolicy` at a time. A request takes it once, at its start, so that
a policy that replaces it meanwhile changes no answer halfway.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
)

from xql.deploy.served import SENTENCES, ServedPolicy
from xql.errors import InputError, MissingExtra
from xql.version import __version__

POLL = 1.0
"""Seconds between two looks at the file."""

LONGEST = 1000
"""Letters of a refusal."""

AT_ONCE = max(1, min(4, (os.cpu_count() or 1) - 1))
"""Requests that are computed in threads at a time; the others wait for their turn.

A core is left to everything else, and each may hold some hundred megabytes."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What one client may ask for."""

    body: int = 4_194_304
    """Bytes of a request."""
    batch: int = 1024
    """Observations in a request: a policy of 256-256 takes about 20 ms for them, and `best_of_n`
    some seconds."""
    concurrency: int = 64
    """Requests at a time; one more is answered with 503."""
    seconds: float = 10.0
    """Until the whole of a request must have come."""


class Holder:
    """The policy that is served now, and the file that it was read from."""

    def __init__(self, path: Path, *, familiar: bool = False) -> None:
        """Read it; with `familiar`, only where it says what is familiar to it."""
        self.path = path
        self._familiar = familiar
        self._seen = self._stamp()
        self.policy = self._read()

    def _read(self) -> ServedPolicy:
        policy = ServedPolicy(self.path)
        if self._familiar and not policy.knows_familiar:
            raise InputError(
                "it does not say what is familiar to it, for `refuse_unfamiliar`",
                where=str(self.path),
                hint="export the run again with its data: xql export RUN --data SOURCE",
            )
        return policy

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None  # between a removal and what takes its place
        return found.st_mtime_ns, found.st_size, found.st_ino

    def refresh(self) -> bool:
        """Read the file again where it has changed; whether another policy is served since.

        Raises:
            InputError: what is there now cannot be served; the policy before it still is.
        """
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return False
        self._seen = stamp
        new = self._read()
        self.policy.require_like(new, str(self.path))
        changed = new.identity != self.policy.identity
        self.policy = new
        return changed


class Counters:
    """What Prometheus reads; one registry for each application."""

    def __init__(self, policy: ServedPolicy) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xql_requests", "Requests by path and status.", ["path", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "xql_request_seconds", "From a request's first byte to its answer.",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )  # fmt: skip
        self.actions = Counter("xql_actions", "Actions given.", registry=self.registry)
        self.unfamiliar = Counter(
            "xql_unfamiliar_observations", "Observations outside of the training data.",
            registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("xql_requests_in_flight", "Requests now.", registry=self.registry)
        self.swaps = Counter(
            "xql_policy_swaps", "Policies read again, by what came of it.", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self.policy = Gauge(
            "xql_policy_info", "1 for the policy that is served.", ["identity", "run", "step"],
            registry=self.registry,
        )  # fmt: skip
        self.serves(policy)

    def serves(self, policy: ServedPolicy) -> None:
        """Name the policy."""
        self.policy.clear()
        self.policy.labels(policy.identity, policy.run, str(policy.step)).set(1)


class Health(BaseModel):
    """That it serves, and what."""

    status: str
    policy: str = Field(description="The first letters of the file's SHA-256.")
    run: str
    step: int


class Answer(BaseModel):
    """An action for each observation or row."""

    actions: list[list[float]] | list[int] = Field(
        description="In the units of the data; the numbers of discrete ones."
    )
    named: list[dict[str, float | int | str]] | None = Field(
        description="The same by the table's column names; null without a table."
    )
    unfamiliar: list[list[str]] | None = Field(
        description="What of each observation lies outside of the training data: a sentence for "
        f"each number, and after {SENTENCES} of them how many more there are; null where the "
        "policy does not say what is familiar."
    )
    policy: str = Field(description="The first letters of the policy's SHA-256.")


class Problem(BaseModel):
    """What is wrong with a request, in one line."""

    detail: str


def make_service(
    path: Path,
    token: str | None = None,
    limits: Limits | None = None,
    say: Callable[[str], object] = print,
    *,
    refuse_unfamiliar: bool = False,
) -> FastAPI:
    """The application that serves an exported policy.

    Args:
        path: the ONNX file; where it is replaced, the new policy is served within a second.
        token: the bearer token that every request but /health must show, so that there is no page
            /docs, which shows none; None asks for none, and takes requests that were sent to this
            machine's own name alone.
        limits: of a request; the defaults where None.
        say: takes a line where another policy is served, or cannot be.
        refuse_unfamiliar: whether a request with an observation that lies outside of the training
            data gets no action, or else one and a note.

    Raises:
        InputError: the file is no policy that xql exported, or does not say what is familiar.
        MissingExtra: onnxruntime is not installed.
    """
    limits = limits or Limits()
    holder = Holder(path, familiar=refuse_unfamiliar)
    metrics = Counters(holder.policy)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(_follow(holder, metrics, say))
        try:
            yield
        finally:
            following.cancel()

    service = FastAPI(
        title="xql policy",
        version=__version__,
        description="Actions of a policy that xql trained.",
        lifespan=lifespan,
        openapi_url="/openapi.json" if token is None else None,
    )
    require_token = _token_check(token)
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text}
        for status, text in (
            (400, "The request is no text, or was sent under another name of this machine."),
            (401, "The bearer token is missing or wrong."),
            (408, "The request did not come whole in time."),
            (413, "The request is larger than this service takes."),
            (422, "The request is no observation of this policy."),
            (503, "Too many requests at a time, or the service is stopping."),
        )
        if status != 401 or token is not None
    }
    request_model = _request_model(holder.policy, limits)

    turns = asyncio.Semaphore(AT_ONCE)

    @service.post("/act", responses=problems, dependencies=require_token)
    async def act(request: request_model, http: Request) -> Answer:  # type: ignore[valid-type]
        """The most likely action for each observation, or for each row of named columns."""
        policy = holder.policy
        body: Any = request
        rows = body.rows if hasattr(body, "rows") else body.observations
        try:
            if policy.is_light(len(rows)):
                answer = _answer(policy, body)
            else:
                async with turns:
                    if await http.is_disconnected():
                        # As in nginx's log; nobody reads it.
                        raise HTTPException(499, "the client has gone")
                    answer = await asyncio.to_thread(_answer, policy, body)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        unfamiliar = answer.unfamiliar
        outside = [place for place, said in enumerate(unfamiliar or ()) if said]
        metrics.unfamiliar.inc(len(outside))
        if outside and unfamiliar and refuse_unfamiliar:
            said = "; ".join(unfamiliar[outside[0]])
            raise HTTPException(422, f"observation {outside[0]} is unfamiliar: {said}"[:LONGEST])
        metrics.actions.inc(len(answer.actions))
        return answer

    @service.get("/health", responses=_only(problems, 400))
    async def health() -> Health:
        """Whether the service is up; asks for no token."""
        policy = holder.policy
        return Health(
            status="ok",
            policy=policy.identity,
            run=policy.run,
            step=policy.step,
        )

    @service.get("/policy", responses=_only(problems, 400, 401, 503), dependencies=require_token)
    async def about() -> dict[str, Any]:
        """The policy's metadata: its inputs, its outputs, where it comes from and its scores."""
        return holder.policy.about

    @service.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, **_only(problems, 400, 401, 503)},
        response_class=Response,
        dependencies=require_token,
    )
    async def exposition() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    if token is not None:

        @service.get("/openapi.json", include_in_schema=False, dependencies=require_token)
        async def described() -> dict[str, Any]:
            return service.openapi()

    @service.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats what was sent, which may be large, or a NaN.
        return JSONResponse({"detail": _in_one_line(error)}, 422)

    service.add_middleware(Gate, limits=limits, metrics=metrics)
    if token is None:
        service.add_middleware(OwnHost)
    return service


def _answer(policy: ServedPolicy, body: Any) -> Answer:
    """What a policy answers to a request.

    Args:
        policy: the one that the request began with.
        body: of the request, with `observations` or `rows`.

    Raises:
        InputError: it gives no observation, or one without an action.
    """
    if hasattr(body, "rows"):
        observations = policy.encode([row.model_dump(by_alias=True) for row in body.rows])
    else:
        observations = np.asarray(body.observations, np.float64)
    actions = policy.act(observations)
    return Answer(
        actions=actions.tolist(),
        named=policy.decode(actions),
        unfamiliar=policy.unfamiliar(observations),
        policy=policy.identity,
    )


class OwnHost:
    """Answers what was sent to `localhost` or a loopback address, and nothing else.

    A page in a browser could give this machine a name of its own, and would then be of its origin.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            found = re.fullmatch(r"\[([^]]*)\](:\d*)?|([^:]*)(:\d*)?", host.decode("latin-1"))
            if found is None or not is_loopback(found[1] or found[3] or ""):
                named = "the request names another host than this machine's own"
                await _problem(400, named, scope, receive, send, {})
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether no other machine reaches a host by this name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may mean any address


def _only(
    problems: Mapping[int | str, dict[str, Any]], *statuses: int
) -> dict[int | str, dict[str, Any]]:
    return {status: problems[status] for status in statuses if status in problems}


def _token_check(token: str | None) -> list[Any]:
    """The dependency that lets no request through without the token."""
    if token is None:
        return []
    bearer, expected = HTTPBearer(auto_error=False), token.encode()

    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        shown = "" if given is None else given.credentials
        if not hmac.compare_digest(shown.encode(), expected):
            raise HTTPException(
                401, "give the token as a bearer token", {"WWW-Authenticate": "Bearer"}
            )

    return [Depends(check)]


def _request_model(policy: ServedPolicy, limits: Limits) -> Any:
    """The body of /act, with this policy's own sizes, names and categories."""
    largest = float(np.finfo(np.float32).max)
    number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-largest, le=largest)]
    size = policy.observation_size
    observation = Annotated[list[number], Field(min_length=size, max_length=size)]
    batch, alone = Field(min_length=1, max_length=limits.batch), ConfigDict(extra="forbid")
    observations = create_model(
        "Observations",
        __config__=alone,
        __doc__="Numbers, in the order of the data.",
        observations=(list[observation], batch),
    )
    if policy.columns is None:
        return observations
    places: dict[str, Any] = {}
    for place, column in enumerate(policy.columns.observation):
        # A category may come as the number or the truth value that the table had.
        label = Annotated[str | int | bool | number, WithJsonSchema({"enum": [*column.categories]})]
        kind = label if column.categories else number
        places[f"c{place}"] = (kind, Field(alias=column.name))
    row = create_model("Row", __doc__="Named columns of the table.", **places)
    rows = create_model(
        "Rows",
        __config__=alone,
        __doc__="Rows of the table, by column name.",
        rows=(list[row], batch),  # type: ignore[valid-type]
    )
    return Annotated[
        Annotated[observations, Tag("observations")] | Annotated[rows, Tag("rows")],
        Discriminator(_kind),
    ]


def _kind(body: Any) -> str:
    return "rows" if isinstance(body, dict) and "rows" in body else "observations"


def _in_one_line(error: RequestValidationError) -> str:
    if isinstance(error.body, bytes):  # it was not read as JSON
        return "send JSON with the header Content-Type: application/json"
    first = error.errors()[0]
    places = [str(part) for part in first["loc"][1:]]
    if len(places) > 1 and not places[1].isdigit():
        del places[0]  # the kind of body
    where = ".".join(places)
    said = str(first["msg"])
    if len(where) > 200:
        where = f"{where[:200]}…"
    return f"{where}: {said}" if where else said


async def _follow(holder: Holder, metrics: Counters, say: Callable[[str], object]) -> None:
    """Serve what the file holds, as soon as it holds something else."""
    while True:
        await asyncio.sleep(POLL)
        try:
            if not await asyncio.to_thread(holder.refresh):
                continue
            metrics.serves(holder.policy)
            result, line = "done", f"policy {holder.policy.identity} is served now"
        except (InputError, MissingExtra, OSError, MemoryError) as error:
            result, line = "refused", f"{error}; the policy before it is still served"
        metrics.swaps.labels(result).inc()
        with contextlib.suppress(OSError):  # nobody reads the output any more, but some still ask
            say(line)


class Gate:
    """Reads a request whole within its limits, counts it, and hands it on."""

    def __init__(self, app: Any, limits: Limits, metrics: Counters) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0  # until an answer begins

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._now += 1
        self._metrics.in_flight.set(self._now)
        try:
            await self._answer(scope, receive, counted)
        except asyncio.CancelledError:  # uvicorn is to stop, and has waited long enough
            if status:
                raise
            await _problem(503, "the service is stopping", scope, receive, counted, {})
        finally:
            self._now -= 1
            self._metrics.in_flight.set(self._now)
            self._metrics.seconds.observe(time.perf_counter() - began)
            known = scope["path"] in ("/act", "/health", "/policy", "/metrics")
            self._metrics.requests.labels(scope["path"] if known else "other", status or 500).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        if self._now > limits.concurrency and scope["path"] != "/health":
            busy = f"more than {limits.concurrency} requests at a time"
            await _problem(503, busy, scope, receive, send, {"Retry-After": "1"})
            return
        try:
            async with asyncio.timeout(limits.seconds):
                body = await _whole(receive, limits.body)
        except TimeoutError:
            slow = f"the request did not come whole within {limits.seconds:g} seconds"
            await _problem(408, slow, scope, receive, send, {"Connection": "close"})
            return
        if body is None:
            large = f"the request has more than {limits.body:,} bytes"
            await _problem(413, large, scope, receive, send, {"Connection": "close"})
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, send)


async def _whole(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None of one with more bytes than `most`."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client has gone
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _problem(
    status: int, text: str, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
) -> None:
    await JSONResponse({"detail": text}, status, headers)(scope, receive, send)
