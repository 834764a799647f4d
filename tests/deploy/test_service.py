"""`xql serve`: what it answers, what it refuses, and what happens when the policy is replaced."""

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from xql.agents import EnvironmentSpec
from xql.agents.policies import CategoricalPolicy, GaussianPolicy
from xql.cli import main
from xql.data.actions import ActionSpec, Discrete, box
from xql.data.scaling import Scaling
from xql.deploy.onnx_graph import onnx_model
from xql.deploy.served import ServedPolicy
from xql.errors import InputError
from xql.runs.as_arrays import as_arrays

for needed in ("fastapi", "httpx", "onnx", "onnxruntime", "prometheus_client", "uvicorn"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from xql.deploy.client import PolicyClient, ServiceError  # noqa: E402
from xql.deploy.connections import impatient  # noqa: E402
from xql.deploy.service import Holder, Limits, make_service  # noqa: E402

VALVE = box([-1.0], [1.0])
TOKEN = "a-token-of-24-characters"
COLUMNS = [
    {"name": "t in", "categories": [], "offset": 20.0},
    {"name": "grade", "categories": ["A", "B"], "offset": 0.0},
]
ACTIONS = [{"name": "valve", "categories": [], "offset": 5.0}]


def write(
    path: Path,
    seed: int = 0,
    *,
    actions: ActionSpec = VALVE,
    table: bool = False,
    of: int = 3,
    **observation: Any,
) -> Path:
    """A policy of `of` observed numbers, untrained, as an exported file."""
    spec = EnvironmentSpec(of, actions)
    make = CategoricalPolicy if isinstance(actions, Discrete) else GaussianPolicy
    plain = Scaling("raw", "raw", 1.0, 0.0, np.zeros(of, np.float32), np.ones(of, np.float32))
    arrays = as_arrays(make.create(jax.random.key(seed), spec, (8,)), plain)
    assert arrays is not None
    about = {
        "format": 1,
        "run": "plant",
        "step": 40,
        "observation": {"size": of, "columns": COLUMNS if table else None} | observation,
        "action": {
            "kind": "discrete" if isinstance(actions, Discrete) else "box",
            "size": actions.size,
            "columns": ACTIONS if table else None,
        },
    }
    path.write_bytes(onnx_model(arrays, about, "policy"))
    return path


local = functools.partial(TestClient, base_url="http://localhost")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("plain") / "policy.onnx")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table") / "policy.onnx", table=True)


@pytest.fixture(scope="module")
def client(plain: Path) -> Iterator[TestClient]:
    with local(make_service(plain)) as client:
        yield client


@pytest.fixture(scope="module")
def named(table: Path) -> Iterator[TestClient]:
    with local(make_service(table)) as client:
        yield client


def test_actions_are_those_of_the_policy(client: TestClient, plain: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    answer = client.post("/act", json={"observations": observations.tolist()})
    assert answer.status_code == 200
    content = answer.json()
    expected = ServedPolicy(plain).act(observations)
    np.testing.assert_array_equal(np.asarray(content["actions"], np.float32), expected)
    assert content["named"] is None
    assert content["policy"] == client.get("/health").json()["policy"]
    assert client.get("/policy").json()["run"] == "plant"


@pytest.mark.parametrize("actions", [VALVE, Discrete(4)], ids=["continuous", "discrete"])
def test_an_observation_without_a_finite_action_is_refused(
    actions: ActionSpec, tmp_path: Path
) -> None:
    body = {"observations": [[0, 0, 0], [3.4e38, -3.4e38, -3.4e38]]}
    with local(make_service(write(tmp_path / "policy.onnx", actions=actions))) as client:
        answer = client.post("/act", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "the action for observation 1 is not finite"


def test_discrete_actions_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.onnx", actions=Discrete(4))
    with local(make_service(path)) as client:
        rows = np.random.default_rng(0).normal(size=(50, 3)) * 5
        actions = client.post("/act", json={"observations": rows.tolist()}).json()["actions"]
    assert set(actions) <= {0, 1, 2, 3}
    assert len(set(actions)) > 1


def test_rows_of_named_columns(named: TestClient, table: Path) -> None:
    rows = [{"t in": 21.5, "grade": "B", "unused": 1}, {"grade": "A", "t in": 20}]
    content = named.post("/act", json={"rows": rows}).json()
    observations = np.array([[1.5, 0, 1], [0, 1, 0]], np.float32)
    expected = ServedPolicy(table).act(observations)
    np.testing.assert_array_equal(np.asarray(content["actions"], np.float32), expected)
    assert content["named"] == [{"valve": value + 5.0} for [value] in content["actions"]]


REFUSED: list[tuple[Any, str]] = [
    ({"observations": [[1, 2]]}, "observations.0: List should have at least 3 items"),
    ({"observations": [[1, 2, 3, 4]]}, "observations.0: List should have at most 3 items"),
    ({"observations": []}, "observations: List should have at least 1 item"),
    (
        {"observations": [[1, 2, 1e39]]},
        "observations.0.2: Input should be less than or equal to 3",
    ),
    ({"observations": [[1, 2, "3"]]}, "observations.0.2: Input should be a valid number"),
    ({"observations": [[1, 2, True]]}, "observations.0.2: Input should be a valid number"),
    ({"observations": [[1, 2, None]]}, "observations.0.2: Input should be a valid number"),
    ({"observations": [[0, 0, 0]], "step": 1}, "step: Extra inputs are not permitted"),
    ({"rows": [{"t": 1}]}, "observations: Field required"),
    ({}, "observations: Field required"),
    ([[1, 2, 3]], "Input should be a valid dictionary"),
]


@pytest.mark.parametrize(("body", "detail"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_no_observation_is_refused(client: TestClient, body: Any, detail: str) -> None:
    answer = client.post("/act", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize(
    "text",
    [
        '{"observations": [[0, 0, NaN]]}',
        '{"observations": [[0, 0, -Infinity]]}',
        '{"observations": [[0, 0, 1e999]]}',
        '{"observations": [[0, 0, 1' + "0" * 400 + "]]}",
        '{"observations": ' + "[" * 100_000,
        '{"observations": [[0, 0, 0]]',
        "",
        "\x00",
        "null",
        "7",
        '"rows"',
        '["rows"]',
        '{"observations": "\\ud800"}',
    ],
    ids=lambda text: text[:30],
)
def test_text_that_is_no_request_is_refused(
    client: TestClient, named: TestClient, text: str
) -> None:
    for service in (client, named):
        answer = service.post("/act", content=text, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert "detail" in answer.json()


def test_a_body_that_is_not_called_json_is_refused(client: TestClient, named: TestClient) -> None:
    header = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d sends
    for service in (client, named):
        answer = service.post("/act", content='{"observations": [[0, 0, 0]]}', headers=header)
        assert answer.status_code == 422
        assert "the header Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"t in": 1}, "rows.0.grade: Field required"),
        ({"t in": 1, "grade": "C"}, "policy: grade is 'C', which the table never had"),
        ({"t in": None, "grade": "A"}, "rows.0.t in: Input should be a valid number"),
        ({"t in": "warm", "grade": "A"}, "rows.0.t in: Input should be a valid number"),
        ({"t in": 1, "grade": None}, "rows.0.grade"),
    ],
    ids=str,
)
def test_rows_that_the_table_never_had_are_refused(
    named: TestClient, row: dict[str, Any], detail: str
) -> None:
    answer = named.post("/act", json={"rows": [row]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)


def test_the_description_names_this_policy_s_columns(named: TestClient) -> None:
    described = named.get("/openapi.json").json()["components"]["schemas"]
    assert set(described["Row"]["properties"]) == {"t in", "grade"}
    assert described["Row"]["properties"]["grade"]["enum"] == ["A", "B"]
    both = {"rows": [{"t in": 21.5, "grade": "B"}], "observations": [[0, 0, 0]]}
    assert named.post("/act", json=both).json()["detail"].startswith("observations: Extra inputs")


def test_no_action_without_the_token(plain: Path) -> None:
    with local(make_service(plain, TOKEN)) as client:
        body = {"observations": [[0, 0, 0]]}
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            refused = client.post("/act", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == client.get("/policy").status_code == 401
        assert client.get("/health").status_code == 200
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/act", json=body, headers=right).status_code == 200


def test_the_description_too_needs_the_token(table: Path) -> None:
    with local(make_service(table, TOKEN)) as client:
        for path in ("/openapi.json", "/docs", "/redoc"):
            assert "grade" not in client.get(path).text
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert "Row" in client.get("/openapi.json", headers=right).json()["components"]["schemas"]


def test_what_stands_for_a_missing_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.onnx", table=True, missing_values=["-999", "grade=?"])
    with local(make_service(path)) as client:
        for row, name in (
            ({"t in": -999, "grade": "A"}, "t in"),
            ({"t in": 1, "grade": "?"}, "grade"),
        ):
            answer = client.post("/act", json={"rows": [row]})
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith(f"policy: {name} is missing")


def test_another_name_of_this_machine_is_refused_without_a_token(plain: Path) -> None:
    with TestClient(make_service(plain), base_url="http://rebound.example") as client:
        assert client.get("/health").status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.2:8000", 200),
        ("[::1]:8000", 200),
        ("LocalHost", 200),
        ("127.0.0.1.example", 400),
        ("192.168.0.7", 400),
        ("[::1].example", 400),
        ("", 400),
    ],
)
def test_any_loopback_address_is_this_machine(client: TestClient, host: str, status: int) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["detail"].startswith("the request names another host")


FAMILIAR = [
    {"name": name, "offset": offset, "low": -1.0, "high": 1.0}
    for name, offset in (("t in", 20.0), ("grade=A", 0.0), ("grade=B", 0.0))
]


def test_what_is_unfamiliar_is_named_and_counted(tmp_path: Path, client: TestClient) -> None:
    path = write(tmp_path / "policy.onnx", table=True, familiar=FAMILIAR)
    rows = [{"t in": 20.5, "grade": "A"}, {"t in": 21.5, "grade": "A"}]
    with local(make_service(path)) as asked:
        answer = asked.post("/act", json={"rows": rows}).json()
        assert answer["unfamiliar"] == [[], ["t in is 21.5; familiar are 19 to 21"]]
        assert len(answer["actions"]) == 2
        assert "xql_unfamiliar_observations_total 1.0" in asked.get("/metrics").text
    with local(make_service(path, refuse_unfamiliar=True)) as asked:
        answer = asked.post("/act", json={"rows": rows})
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "observation 1 is unfamiliar: t in is 21.5; familiar are 19 to 21"
        )
        assert asked.post("/act", json={"rows": rows[:1]}).status_code == 200
        assert "xql_unfamiliar_observations_total 1.0" in asked.get("/metrics").text
    assert client.post("/act", json={"observations": [[9, 9, 9]]}).json()["unfamiliar"] is None


def test_a_few_sentences_say_what_is_unfamiliar_of_one_observation(tmp_path: Path) -> None:
    """A request of a million unfamiliar numbers was answered with as many sentences."""
    path = write(tmp_path / "policy.onnx", of=12, familiar=[FAMILIAR[0]] * 12)
    policy = ServedPolicy(path)
    rows = np.zeros((3, 12), np.float32)
    rows[0, 4:9] = 2.0
    rows[2] = np.arange(12) + 2.0
    found = policy.unfamiliar(rows)
    assert found is not None
    assert found[0] == ["t in is 22; familiar are 19 to 21"] * 5 and found[1] == []
    assert found[2] == [f"t in is {20 + n}; familiar are 19 to 21" for n in range(2, 7)] + [
        "and 7 more"
    ]


def test_a_policy_that_does_not_say_what_is_familiar_refuses_nothing(
    tmp_path: Path, plain: Path
) -> None:
    with pytest.raises(InputError, match=r"does not say what is familiar .*export the run again"):
        make_service(plain, refuse_unfamiliar=True)
    path = write(tmp_path / "policy.onnx", familiar=FAMILIAR)
    holder = Holder(path, familiar=True)
    write(tmp_path / "new", seed=1).replace(path)
    with pytest.raises(InputError, match="does not say what is familiar"):
        holder.refresh()


def test_limits(plain: Path) -> None:
    limits = Limits(body=500, batch=2)
    with local(make_service(plain, limits=limits)) as client:
        many = client.post("/act", json={"observations": [[0, 0, 0]] * 3})
        assert (many.status_code, many.json()["detail"]) == (
            422,
            "observations: List should have at most 2 items after validation, not 3",
        )
        long = client.post("/act", json={"observations": [[0.123456789] * 60]})
        assert long.status_code == 413
        assert long.json()["detail"] == "the request has more than 500 bytes"
        assert client.post("/act", json={"observations": [[0, 0, 0]] * 2}).status_code == 200


def test_what_takes_long_is_known_beforehand(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ServedPolicy(plain)
    assert policy.is_light(64)
    assert not policy.is_light(65)
    monkeypatch.setattr("xql.deploy.served.LIGHT", 10 * plain.stat().st_size)
    assert policy.is_light(10)
    assert not policy.is_light(11)
    policy.about["network"] = "best_of_n"
    assert not policy.is_light(1)


MANY = {"observations": [[0, 0, 0]] * 65}


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What is done while a policy computes actions for many observations."""
    act, doing = ServedPolicy.act, list[Callable[[], object]]()

    def slow(self: ServedPolicy, observations: np.ndarray, where: str = "") -> np.ndarray:
        if len(observations) == 65:
            for one in doing:
                one()
        return act(self, observations, where)

    monkeypatch.setattr(ServedPolicy, "act", slow)
    return doing


def test_others_are_answered_while_many_actions_are_computed(
    plain: Path, during: list[Callable[[], object]]
) -> None:
    began, answered = threading.Event(), threading.Event()
    in_time: list[bool] = []
    during += [began.set, lambda: in_time.append(answered.wait(20))]
    with local(make_service(plain)) as client, ThreadPoolExecutor() as pool:
        many = pool.submit(client.post, "/act", json=MANY)
        assert began.wait(60)
        assert client.get("/health").status_code == 200
        one = client.post("/act", json={"observations": [[0, 0, 0]]})
        answered.set()
        assert many.result().status_code == one.status_code == 200
        assert in_time == [True]
        assert many.result().json()["actions"] == one.json()["actions"] * 65


def test_a_few_requests_at_a_time_are_computed_beside_the_others(
    plain: Path, during: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xql.deploy.service.AT_ONCE", 2)
    pair, lock, running, most = threading.Barrier(2, timeout=60), threading.Lock(), 0, 0

    def count(more: int) -> None:
        nonlocal running, most
        with lock:
            running += more
            most = max(most, running)

    during += [functools.partial(count, 1), pair.wait, functools.partial(count, -1)]
    with local(make_service(plain)) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/act", json=MANY) for _ in range(8)]
        assert {one.result().status_code for one in asked} == {200}
    assert most == 2


class Asked:
    """A request for many actions, and what was sent in answer."""

    def __init__(self, *, gone: bool = False) -> None:
        """With `gone`, of a client that has closed its connection since."""
        self.sent: list[Any] = []
        self._gone, self._body = gone, [json.dumps(MANY).encode()]

    async def receive(self) -> Any:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        if not self._gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def answer(self, path: Path) -> None:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/act", "query_string": b""}
        await make_service(path)({**scope, "headers": headers}, self.receive, self.send)


def test_nothing_is_computed_for_a_client_that_has_gone(
    plain: Path, during: list[Callable[[], object]]
) -> None:
    during.append(lambda: pytest.fail("it was computed"))
    asked = Asked(gone=True)
    asyncio.run(asked.answer(plain))
    assert asked.sent[0]["status"] == 499


def test_a_request_that_outlasts_the_stop_of_the_service_is_refused(
    plain: Path, during: list[Callable[[], object]]
) -> None:
    began, end, asked = threading.Event(), threading.Event(), Asked()
    during += [began.set, lambda: end.wait(60)]

    async def stop() -> None:
        answering = asyncio.create_task(asked.answer(plain))
        assert await asyncio.to_thread(began.wait, 60)
        answering.cancel()
        await answering
        end.set()

    asyncio.run(stop())
    assert asked.sent[0]["status"] == 503
    assert b"the service is stopping" in asked.sent[1]["body"]


def test_metrics_count_requests_and_actions(plain: Path) -> None:
    with local(make_service(plain)) as client:
        client.post("/act", json={"observations": [[0, 0, 0]] * 5})
        client.post("/act", json={"observations": [[0, 0]]})
        client.get("/nothing")
        said = client.get("/metrics").text
    for line in (
        'xql_requests_total{path="/act",status="200"} 1.0',
        'xql_requests_total{path="/act",status="422"} 1.0',
        'xql_requests_total{path="other",status="404"} 1.0',
        "xql_actions_total 5.0",
    ):
        assert line in said
    assert 'run="plant",step="40"' in said


def test_a_replaced_file_is_served_and_an_unfit_one_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.onnx")
    holder = Holder(path)
    first = holder.policy.identity
    assert not holder.refresh()
    write(tmp_path / "new", seed=1).replace(path)
    assert holder.refresh()
    second = holder.policy.identity
    assert second != first
    write(tmp_path / "new", actions=Discrete(2)).replace(path)
    with pytest.raises(InputError, match="its actions are not as those of the policy"):
        holder.refresh()
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="no ONNX policy of xql's"):
        holder.refresh()
    path.unlink()
    assert not holder.refresh()
    assert holder.policy.identity == second


@pytest.mark.parametrize(
    "change",
    [
        {"size": 4},
        {"size": -1},
        {"size": 10**12},
        {"size": "3", "columns": []},
        {"columns": COLUMNS[:1]},
        {"familiar": [{"name": "t in", "offset": 0.0, "low": 0.0, "high": 1.0}]},
        {"familiar": [{"name": "t in", "low": 0.0, "high": 1.0}] * 3},
        {"familiar": [{"name": "t in", "offset": 0.0, "low": "a", "high": 1.0}] * 3},
    ],
    ids=str,
)
def test_metadata_that_are_not_of_the_model_are_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        ServedPolicy(write(tmp_path / "policy.onnx", table=True, **change))


def test_a_policy_is_replaced_though_nobody_reads_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("xql.deploy.service.POLL", 0.01)
    path = write(tmp_path / "policy.onnx")
    with local(make_service(path, say=say)) as client:
        for seed in (1, 2):
            new = write(tmp_path / "new", seed)
            identity = ServedPolicy(new).identity
            new.replace(path)
            while client.get("/health").json()["policy"] != identity:
                time.sleep(0.01)


def run_command(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "xql", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.fixture
def started() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = run_command(*arguments, XQL_TOKEN="")
        processes.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "serving" in said, said
        return process, said.split(" at ")[1].split()[0]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_served_by_the_command_swapped_under_load_and_stopped(
    started: Callable[..., tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    path = write(tmp_path / "policy.onnx")
    other = write(tmp_path / "other.onnx", seed=1)
    process, url = started(str(path), "--port", "0")
    answers: set[str] = set()
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        expected = {ServedPolicy(one).identity: ServedPolicy(one) for one in (path, other)}
        rows = np.ones((2, 3), np.float32)
        with PolicyClient(url) as client:
            while not done.is_set():
                try:
                    answer = client._ask("POST", "/act", {"observations": rows.tolist()})
                    served = expected[answer["policy"]]
                    assert np.array_equal(
                        np.asarray(answer["actions"], np.float32), served.act(rows)
                    )
                    answers.add(answer["policy"])
                except Exception as error:
                    failures.append(error)
                    return

    asking = threading.Thread(target=ask)
    asking.start()
    while not answers and not failures:
        time.sleep(0.01)
    shutil.copy(other, tmp_path / "draft")
    (tmp_path / "draft").replace(path)
    deadline = time.monotonic() + 60
    while len(answers) < 2 and not failures and time.monotonic() < deadline:
        time.sleep(0.02)
    done.set()
    asking.join()
    assert failures == []
    assert len(answers) == 2
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.splitlines()[-1] == "stopped"


def is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_connection_that_is_not_used_is_closed(
    started: Callable[..., tuple[subprocess.Popen[str], str]], plain: Path
) -> None:
    _, url = started(str(plain), "--port", "0", "--timeout", "0.5", "--max-requests", "1")
    where = "127.0.0.1", int(url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(where, timeout=60))

        # One that sends nothing, one that begins a request, and one that sends it byte by byte.
        silent, begun, slow = connect(), connect(), connect()
        begun.sendall(b"GET /health HT")
        slow.settimeout(0.1)
        letters = iter(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 500)
        ended = False
        while not ended:
            with contextlib.suppress(TimeoutError):
                try:
                    slow.sendall(bytes([next(letters)]))
                except OSError:
                    ended = True
                ended = ended or is_closed(slow)
        assert next(letters, None) is not None
        assert is_closed(silent)
        assert is_closed(begun)
        # Between two requests there may be more time than that.
        used = connect()
        for _ in range(2):
            used.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += used.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.7)
        used.sendall(b"GET /heal")
        assert is_closed(used)
        # At most four connections are open for each request at a time.
        assert is_closed([connect() for _ in range(5)][-1])


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answers with more than any buffer of the system holds, all at once or bit by bit."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    parts = 1 if scope["path"] == "/whole" else 256
    for _ in range(parts):
        body = bytes(64 << 20 >> (0 if parts == 1 else 8))
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize("path", ["/whole", "/parts"])
@pytest.mark.parametrize("header", ["", "Connection: close\r\n"], ids=["kept", "closed"])
def test_a_client_that_does_not_read_its_answer_is_let_go(path: str, header: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            large, http=impatient(0.3, 4), lifespan="off", log_config=None, timeout_keep_alive=600
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with socket.create_connection(listening.getsockname(), timeout=60) as one:
                one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
                wait_for(lambda: bool(server.server_state.connections))
                wait_for(lambda: not server.server_state.connections)
        finally:
            server.should_exit = True
            thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to that")


def test_client(plain: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with PolicyClient("http://localhost") as asking:
        monkeypatch.setattr(asking, "_http", client)
        observations = np.ones((4, 3))
        actions = asking.act(observations)
        np.testing.assert_array_equal(actions[2], asking.act(observations[2]))
        assert actions.shape == (4, 1)
        assert asking.act(observations.reshape(2, 2, 3)).shape == (2, 2, 1)
        assert asking.policy()["run"] == "plant"
        with pytest.raises(ServiceError, match="at least 3 items") as caught:
            asking.act(np.ones(2))
        assert caught.value.status == 422
        with pytest.raises(ServiceError, match=r"observations\.0\.0: Input should be a finite"):
            asking.act(np.array([np.nan, 0, 0]))
        monkeypatch.undo()
    with (
        PolicyClient("http://127.0.0.1:9", timeout=1.0) as nobody,
        pytest.raises(ServiceError) as gone,
    ):
        nobody.health()
    assert gone.value.status is None


def test_client_takes_numbers_of_numpy_in_rows(
    named: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PolicyClient("http://localhost") as asking:
        monkeypatch.setattr(asking, "_http", named)
        rows = [{"t in": 21.5, "grade": "B"}]
        expected = asking.act_on_rows(rows)
        assert asking.act_on_rows([{"t in": np.float32(21.5), "grade": np.str_("B")}]) == expected
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{policy}", "--host", "0.0.0.0"], "can be reached from other machines, and no token"),
        (["{policy}", "--port", "70000"], "--port 70000 is no port"),
        (["{policy}", "--max-batch", "0"], "--max-batch 0 is not above 0"),
        (["{policy}", "--token-file", "{short}"], "the token has fewer than 16 letters"),
        (["nothing.onnx"], "xql: nothing.onnx: there is no such file; check the path"),
        (["{short}"], "no ONNX policy of xql's; make one: xql export RUN --format onnx"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_said_in_one_line(
    arguments: list[str],
    said: str,
    plain: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XQL_TOKEN", raising=False)
    short = tmp_path / "short"
    short.write_text("secret")
    words = [word.format(policy=plain, short=short) for word in arguments]
    with pytest.raises(SystemExit) as end:
        main(["serve", *words])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_serving_needs_no_jax(plain: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from xql.deploy.service import make_service\n"
        "import xql.cli.serve, xql.deploy.client\n"
        "make_service(Path(sys.argv[1]))\n"
        "assert 'jax' not in sys.modules and 'scipy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(plain)], check=True, timeout=120)
