"""`export`: one member's policy in one file, with its metadata and its model card beside it."""

import contextlib
import inspect
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from xql.data.actions import Discrete
from xql.deploy.about import about_policy, as_json
from xql.deploy.card import model_card
from xql.deploy.onnx_graph import onnx_model
from xql.errors import InputError, nearest, require
from xql.files import made_folder, whole_file, writing
from xql.jax_config import standard_jax
from xql.runs import numpy_policy
from xql.runs.as_arrays import PolicyArrays, as_arrays
from xql.runs.folder import RunFolder
from xql.runs.policy import Policy, load_policy
from xql.training.reopen import Source

Format = Literal["numpy", "onnx", "stablehlo"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"numpy": ".npz", "onnx": ".onnx", "stablehlo": ".stablehlo"}
LOADER = "policy.py"
"""The name of the file that acts by an .npz with NumPy alone; it lies beside it."""
PLATFORMS = ("cpu", "cuda")


class Exported(NamedTuple):
    """What `export` wrote."""

    path: Path
    """The policy."""
    files: tuple[Path, ...]
    """All of it: the policy, its metadata, its card and, for NumPy, the loader."""
    about: dict[str, Any]
    """The metadata."""


def export(
    run: Path | str,
    path: Path | str | None = None,
    format: Format = "numpy",
    member: int = 0,
    step: int | None = None,
    data: Source | None = None,
) -> Path:
    """Write the policy of one member of a run as a file that needs no xql.

    Raw observations go in, the most likely actions come out, in the units of the data. Beside it
    lie NAME.json, the metadata, and NAME.card.md, the model card; beside an .npz also policy.py,
    which acts by it with NumPy alone. Nothing is overwritten.

    Args:
        run: the run's folder.
        path: the file; export/policy with the format's suffix in the run's folder where None.
        format: "numpy", "onnx" or "stablehlo".
        member: which one, in the order of config.yaml.
        step: of the checkpoint, or of an evaluation whose policies the run kept; the latest where
            None.
        data: the run's data, where it lies elsewhere now or was given as arrays: the ranges of its
            observations stand in the card.

    Returns:
        The policy's file.

    Raises:
        InputError: no run, no such member or step, a policy that the format cannot hold, or a file
            of one of the names is there.
        MissingExtra: onnx is not installed.
    """
    return export_policy(run, path, format, member, step, data).path


def export_policy(
    run: Path | str,
    path: Path | str | None = None,
    format: Format = "numpy",
    member: int = 0,
    step: int | None = None,
    data: Source | None = None,
) -> Exported:
    """`export`, and all that it wrote."""
    if format not in FORMATS:
        raise InputError(f"`format={format}` is unknown", hint=nearest(str(format), FORMATS))
    if format == "onnx":
        require("onnx", "export")
    folder = RunFolder.open(Path(run))
    suffix = SUFFIXES[format]
    if path is None:
        name = "policy" if len(folder.config.members) == 1 else f"policy-{member}"
        path = folder.path / "export" / f"{name}{suffix}"
    path = Path(path)
    if path.suffix != suffix:
        raise InputError(
            f"a file of format {format} ends in {suffix}",
            where=str(path),
            hint=f"name it {path.stem or 'policy'}{suffix}",
        )
    _require_free(path)
    policy = load_policy(run, member, step)
    arrays = as_arrays(policy.actor, policy.scaling)
    if arrays is None and format != "stablehlo":
        raise InputError(
            f"agent {folder.config.agent} acts by a policy that only stablehlo can hold",
            where=str(run),
            hint="take `format=stablehlo`",
        )
    about = about_policy(
        folder,
        member,
        policy.step or 0,
        None if arrays is None else arrays.kind,
        _leaves(policy) if arrays is None else arrays.arrays,
        data,
    )
    texts = {
        path.with_suffix(".json"): as_json(about),
        path.with_suffix(".card.md"): model_card(about, path.stem),
    }
    if format == "stablehlo":
        content = stablehlo(policy)
    else:
        assert arrays is not None
        content = onnx_model(arrays, about, path.stem) if format == "onnx" else npz(arrays, about)
    if format == "numpy":
        texts[path.with_name(LOADER)] = inspect.getsource(numpy_policy)
    _write(path, content, {one: text.encode() for one, text in texts.items()})
    return Exported(path, (path, *texts), about)


def _leaves(policy: Policy) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(policy.actor)
    return {jax.tree_util.keystr(where): np.asarray(leaf) for where, leaf in leaves}


def npz(policy: PolicyArrays, about: Mapping[str, Any]) -> bytes:
    """The arrays, and as bytes of JSON the metadata under `xql`, the steps under `program`."""
    stream = io.BytesIO()
    texts = {"xql": as_json(about), "program": json.dumps(policy.program)}
    described = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
    np.savez(stream, **described, **policy.arrays)  # type: ignore[arg-type]
    return stream.getvalue()


@standard_jax()
def stablehlo(policy: Policy) -> bytes:
    """The policy as JAX's own serialised program, for any batch, on CPU and CUDA."""
    from jax import export as jax_export

    shift, scale = policy.scaling.observation_shift, policy.scaling.observation_scale
    discrete = isinstance(policy.actions, Discrete)

    def act(observation: Any) -> Any:
        actions = policy.actor((observation - shift) * scale, None)
        if not discrete:
            return actions
        return jnp.where(jnp.isnan(actions).any(-1), -1, actions.argmax(-1))

    (batch,) = jax_export.symbolic_shape("batch")
    rows = jax.ShapeDtypeStruct((batch, len(shift)), jnp.float32)  # type: ignore[no-untyped-call]
    # A GPU would round the factors of a product to 10 bits.
    with jax.default_matmul_precision("highest"):
        exported = jax_export.export(jax.jit(act), platforms=PLATFORMS)(rows)
    return bytes(exported.serialize())


def _write(path: Path, content: bytes, others: Mapping[Path, bytes]) -> None:
    """Write all of it or nothing; of the others, one that is there with the same content stays."""
    missing = {place: one for place, one in others.items() if not _is_there(place, one)}
    with made_folder(path.parent, "policy"), contextlib.ExitStack() as stack:
        for place, one in {path: content, **missing}.items():
            stack.enter_context(whole_file(place)).write_bytes(one)


def _is_there(path: Path, content: bytes) -> bool:
    """Whether a file is there already, with this content.

    Raises:
        InputError: another one is.
    """
    with writing(path):
        if path.is_file() and path.read_bytes() == content:
            return True
    if path.name == LOADER and os.path.lexists(path):
        what = "another file has the name that the loader of an .npz needs"
        raise InputError(what, where=str(path), hint="export into another folder")
    _require_free(path)
    return False


def _require_free(path: Path) -> None:
    with writing(path):
        if os.path.lexists(path):
            raise InputError("the file exists", where=str(path), hint="give another name")
