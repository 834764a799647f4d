"""Configuration that every test shares."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiled programs are shared by the test processes and by the commands that tests start. A program
# is found by its code, its options and XLA's release, so that a stale one is never taken.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most tests compile a small program and run it for some milliseconds: XLA compiles five times as
# fast if it optimizes little. What trains for thousands of updates, and what compares the bits of
# programs, runs as users run it: see `test` and `nightly` in the Makefile.
if not os.environ.get("XQL_TEST_OPTIMIZED"):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1",
    )

# What a program says of the Python lines that it comes from is a twentieth of the time, and unread.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# A run of a test ends without a page of itself, which takes a second or two.
os.environ.setdefault("XQL_REPORT", "0")

import jax

from xql import jax_config

# As in a terminal: a shell ignores SIGINT in what it starts in the background, commands that tests
# start would inherit that, and a test that waits for its own signal would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

IMPORTED = (Path(jax_config.__file__).parents[1], Path(__file__).parent)

# As the command line does on 2 cores, and before any test can fix the number by using JAX:
# populations are then spread over two devices, whichever test comes first.
jax.config.update("jax_num_cpu_devices", 2)  # type: ignore[no-untyped-call]

# One process that ran every test passed Linux's number of memory maps, and crashed inside the
# compiler. Somewhat more than a user's process is given: tests come back to the same programs, and
# a process with so many takes about 3 GB.
jax_config.MOST_MAPS = 12_000


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what has been imported, which stays to the end."""
    gc.freeze()
    gc.set_threshold(5_000, 20, 10)


@pytest.fixture(autouse=True, scope="session")
def no_test_waits_for_the_disk() -> Iterator[None]:
    """A test's files need not outlive a power failure.

    A run of 60 updates syncs 80 times, and waits for as long as it computes. A descriptor that is
    not open still raises, and the commands that tests start sync as users' do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray with two workers, started once: it takes four seconds. `OnRay` leaves it running."""
    ray = pytest.importorskip("ray")
    from xql.experiments.executors import start_ray_here

    before = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import xql, and the environments of worlds.py.
        patch.setenv("PYTHONPATH", os.pathsep.join([*map(str, IMPORTED), before]))
        # A socket's path has at most 107 bytes, and tmp_path of a test process is long.
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("cores")))  # which test processes share
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to the user's home
        start_ray_here(2)
        patch.undo()
        yield
        ray.shutdown()


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go() -> Iterator[None]:
    """Tests that train nothing compile programs too."""
    yield
    jax_config.forget_programs()
