"""Record a policy: its episodes as an mp4, with the step and the running return in the frame."""

import contextlib
import functools
import io
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from xql.data.reading import require_file
from xql.envs.render import draw
from xql.errors import InputError, require
from xql.evaluation.rollout import Act, EpisodeResult, Evaluator
from xql.files import require_new, whole_file

FRAMES_PER_SECOND = 25
"""At most so many frames are drawn for a second of simulated time: without a GPU, drawing one takes
as long as hundreds of steps."""

_PAUSE = 1.0
"""Seconds for which an episode's last frame stands, so that its return can be read."""

Frame = UInt8[np.ndarray, "_ _ 3"]


def record(
    make: Callable[[], gymnasium.Env[Any, Any]],
    act: Act,
    path: Path,
    *,
    seed: int = 10_000,
    episodes: int = 1,
    every: int | None = None,
    label: str = "",
    stop_at_success: bool = False,
) -> list[EpisodeResult]:
    """Record a policy; the episodes are those that `rollout` plays from the same seed.

    Args:
        make: an environment as `rollout` takes it, which can be drawn (`make_environment` with
            `picture=`).
        act: one policy: observations [1, 1, observation] in, actions [1, 1, action] out.
        path: the mp4 to write; nothing may be there.
        seed: episode e is reset with `seed + e`.
        episodes: how many, one after another.
        every: draw every so many steps. Without it, so many that the film runs at the simulation's
            own speed (its `render_fps`) with `FRAMES_PER_SECOND` frames or fewer.
        label: what to write at the left of each frame.
        stop_at_success: end an episode at its first success.

    Returns:
        The result of each episode.

    Raises:
        InputError: `path` exists, or the environment cannot be drawn here.
        MissingExtra: the extra `video` is not installed.
    """
    env = make()
    try:
        pace = float(env.metadata.get("render_fps") or 30)
        step = every or math.ceil(pace / FRAMES_PER_SECOND)
        rate = Fraction(pace / step).limit_denominator(1000)
        with mp4(path, rate) as write:
            film = _Film(env, write, step, label, pause=round(_PAUSE * rate))
            evaluator = Evaluator(lambda: film, members=1, parallel=1)
            results = evaluator.rollout(act, episodes, seed, stop_at_success=stop_at_success)
            film.finish()
    finally:
        env.close()
    return results


def side_by_side(left: Path, right: Path, path: Path) -> Path:
    """Put two films of the same height and speed beside each other; the shorter one's last frame
    stands until the longer one ends.

    Returns:
        `path`, where nothing may have been.

    Raises:
        InputError: `path` exists, one is no film, or they do not fit.
        MissingExtra: the extra `video` is not installed.
    """
    with _opened(left) as (rate, frames), _opened(right) as (other_rate, others):
        if rate != other_rate:
            raise InputError(
                f"their speeds are {float(rate):g} and {float(other_rate):g} frames a second",
                where=f"{left} and {right}",
                hint="film both with the same environment",
            )
        with mp4(path, rate) as write:
            last: list[Frame] = []
            for pair in itertools.zip_longest(frames, others):
                last = [last[place] if frame is None else frame for place, frame in enumerate(pair)]
                if last[0].shape[0] != last[1].shape[0]:
                    raise InputError(
                        f"their heights are {last[0].shape[0]} and {last[1].shape[0]} pixels",
                        where=f"{left} and {right}",
                        hint="film both with the same environment",
                    )
                write(np.concatenate(last, axis=1))
    return path


@contextlib.contextmanager
def mp4(path: Path, rate: Fraction) -> Iterator[Callable[[Frame], None]]:
    """Write frames, all of one size, as H.264 at `rate` a second; whole, or not at all.

    Raises:
        InputError: `path` exists, or nothing can be written there.
        MissingExtra: the extra `video` is not installed.
    """
    av = require("av", "video")
    require_new(path)
    # FFmpeg says nothing of what stopped the writing to a file.
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
        stream.pix_fmt = "yuv420p"

        def write(frame: Frame) -> None:
            # H.264 halves the resolution of colours, so both sides must be even.
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            if not stream.codec_context.is_open:
                stream.height, stream.width = height, width
            even = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield write
        container.mux(stream.encode())
    with whole_file(path, "film") as draft:
        draft.write_bytes(content.getbuffer())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Fraction, Iterator[Frame]]]:
    """A film's frames a second, and its frames."""
    av = require("av", "video")
    require_file(path)
    try:
        container = av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(
            f"this is no film that can be read ({error.strerror})", where=str(path), hint="check it"
        ) from None
    with container:
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        rate = container.streams.video[0].average_rate  # av 19 has its own type of fraction
        yield Fraction(rate.numerator, rate.denominator), frames


class _Film(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The same environment, of which every so many steps a captioned frame is written."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        write: Callable[[Frame], None],
        every: int,
        label: str,
        pause: int,
    ) -> None:
        super().__init__(env)
        self._write, self._every, self._label, self._pause = write, every, label, pause
        self._playing, self._step, self._return = False, 0, 0.0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.finish()
        begun = super().reset(**kwargs)
        self._playing, self._step, self._return = True, 0, 0.0
        self._write(self._frame())
        return begun

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        taken = super().step(action)
        self._step += 1
        self._return += float(taken[1])
        if self._step % self._every == 0:
            self._write(self._frame())
        return taken

    def finish(self) -> None:
        """Let the end of the episode stand; whatever ended it, the simulator has not moved on."""
        if self._playing:
            for frame in itertools.repeat(self._frame(), self._pause):
                self._write(frame)
        self._playing = False

    def _frame(self) -> Frame:
        text = f"{self._label}   step {self._step}   return {self._return:.1f}".strip()
        return captioned(draw(self.env), text)


def captioned(frame: Frame, text: str) -> Frame:
    """The frame below a dark strip with a line of text."""
    image, drawing = (require(f"PIL.{name}", "video") for name in ("Image", "ImageDraw"))
    strip = image.new("RGB", (frame.shape[1], 24), (24, 24, 28))
    drawing.Draw(strip).text((8, 4), text, fill=(240, 240, 240), font=_font())
    return np.concatenate([np.asarray(strip), frame])


@functools.cache
def _font() -> Any:
    return require("PIL.ImageFont", "video").load_default(size=14)
