"""How long `xql serve` takes to answer: `python -m benchmarks.serving`.

The service of a 256-256 policy in a process of its own, asked over loopback by this one. Closed
load: each of some connections asks again as soon as it is answered. Open load: requests come at a
rate, whether the earlier ones are answered or not, and waiting counts as time. `--soak-minutes 10`
asks 200 times a second for minutes instead, and says how much memory the service held.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro

from benchmarks.latency import make_policy
from benchmarks.updates import OBSERVATION
from xql.deploy.onnx_graph import onnx_model
from xql.deploy.served import ServedPolicy
from xql.runs.as_arrays import as_arrays

SHARES = (0.5, 0.8)
"""The rates of the open load, in parts of the highest of the closed one."""


def write_policy(path: Path) -> None:
    """The policy of `benchmarks.latency` as an exported file."""
    policy = make_policy()
    arrays = as_arrays(policy.actor, policy.scaling)
    assert arrays is not None
    familiar = [
        {"name": f"number {place}", "offset": 0.0, "low": -10.0, "high": 10.0}
        for place in range(OBSERVATION)
    ]
    about = {
        "format": 1,
        "run": "benchmark",
        "step": 0,
        "observation": {"size": OBSERVATION, "columns": None, "familiar": familiar},
        "action": {"kind": "box", "size": policy.actions.size, "columns": None},
    }
    path.write_bytes(onnx_model(arrays, about, "policy"))


@asynccontextmanager
async def service(path: Path) -> AsyncIterator[tuple[subprocess.Popen[str], int]]:
    """`xql serve` at a free port."""
    command = [sys.executable, "-m", "xql", "serve", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield process, int(said.split(" at ")[1].split()[0].rsplit(":", 1)[1])
        process.terminate()


def request(batch: int) -> bytes:
    """A request for `batch` actions, whole."""
    rows = np.random.default_rng(0).normal(size=(batch, OBSERVATION)).round(4)
    body = json.dumps({"observations": rows.tolist()}).encode()
    head = "POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, text: bytes) -> None:
        """Send a request and read the answer, which must be good."""
        self._writer.write(text)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(head.split(b"\r\n")[0].decode())
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)


async def closed(
    port: int, text: bytes, connections: int, seconds: float
) -> tuple[list[float], float]:
    """Each answer's time, and answers a second."""
    open_ = [await Connection.open(port) for _ in range(connections)]
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def ask(connection: Connection) -> None:
        while (began := time.perf_counter()) < end:
            await connection.ask(text)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(ask, open_))
    return times, len(times) / (time.perf_counter() - began)


async def at_rate(port: int, text: bytes, rate: float, seconds: float) -> list[float]:
    """Each answer's time since it was due, at random times of a Poisson process."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(32):
        free.put_nowait(await Connection.open(port))
    times: list[float] = []

    async def ask(due: float) -> None:
        connection = await free.get()
        await connection.ask(text)
        free.put_nowait(connection)
        times.append(time.perf_counter() - due)

    due = time.perf_counter()
    end, asked = due + seconds, []
    random = np.random.default_rng(0)
    while (due := due + random.exponential(1 / rate)) < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*asked)
    return times


def in_process(path: Path, batch: int, calls: int = 2000) -> list[float]:
    """The same policy without HTTP."""
    policy = ServedPolicy(path)
    rows = np.random.default_rng(0).normal(size=(batch, OBSERVATION))
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        policy.act(rows)
        times.append(time.perf_counter() - began)
    return times


def row(name: str, batch: int, times: list[float], rate: float) -> str:
    """A row of the table; milliseconds."""
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1e3
    return f"| {name} | {batch} | {p50:.3f} | {p99:.3f} | {rate:,.0f} |"


def held(process: subprocess.Popen[str]) -> float:
    """The resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def measure(path: Path, seconds: float) -> None:
    """The table."""
    print("| load | batch | p50, ms | p99, ms | answers/s |\n|---|---|---|---|---|")
    async with service(path) as (_, port):
        for batch in (1, 64):
            text = request(batch)
            await closed(port, text, 1, 1.0)
            here = in_process(path, batch)
            print(row("in the process", batch, here, len(here) / sum(here)))
            highest = 0.0
            for connections in (1, 8, 32):
                times, rate = await closed(port, text, connections, seconds)
                highest = max(highest, rate)
                print(row(f"closed, {connections} connections", batch, times, rate))
            for share in SHARES:
                rate = share * highest
                times = await at_rate(port, text, rate, seconds)
                print(row(f"open, {rate:,.0f} a second", batch, times, len(times) / seconds))


async def soak(path: Path, minutes: float) -> None:
    """Ask 200 times a second, with batches of both sizes in turn; the memory at each minute."""
    async with service(path) as (process, port):
        print("| minute | answers | memory, MiB |\n|---|---|---|")
        answers = 0
        for minute in range(int(minutes) + 1):
            print(f"| {minute} | {answers:,} | {held(process):.1f} |", flush=True)
            if minute < minutes:
                for batch in (1, 64):
                    answers += len(await at_rate(port, request(batch), 200.0, 30.0))


def main(seconds: float = 5.0, soak_minutes: float = 0.0) -> None:
    """Print the table.

    Args:
        seconds: for each row.
        soak_minutes: minutes of load instead, to see whether memory stays flat.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        write_policy(path)
        asyncio.run(soak(path, soak_minutes) if soak_minutes else measure(path, seconds))


if __name__ == "__main__":
    tyro.cli(main)
