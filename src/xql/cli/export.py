"""`xql export RUN`: a policy as a file that needs no xql."""

from pathlib import Path
from typing import Literal

import tyro

from xql.cli.console import print_words, sign_of_life


def export(
    run: tyro.conf.Positional[Path],
    format: Literal["numpy", "onnx", "stablehlo"] = "numpy",
    out: Path | None = None,
    member: int = 0,
    step: int | None = None,
    data: str | None = None,
) -> None:
    """Write a run's policy as a file that needs no xql, and its model card beside it.

    Args:
        run: the run's folder.
        format: numpy: an .npz, and policy.py, which acts by it with NumPy alone; onnx: for ONNX
            Runtime and `xql serve`; stablehlo: for JAX.
        out: the file, which must not exist; export/policy in the run's folder without it.
        member: whose policy.
        step: of the checkpoint or the kept policy; the latest without it.
        data: the run's data, where it lies elsewhere now; its ranges stand in the model card.
    """
    sign_of_life(f"exporting {run}")
    from xql.deploy.exporting import export_policy

    done = export_policy(run, out, format, member, step, data)
    about = done.about
    others = ""
    if about["members"] > 1:
        others = f" of {about['members']}; --member N takes another"
    print_words(
        f"member {about['member']} (seed {about['seed']}){others}; step {about['step']:,}; "
        f"sha256 {about['sha256'][:12]}"
    )
    for path in done.files:
        print(path)
