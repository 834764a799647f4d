"""What goes wrong in a module of results is one line."""

import pytest

from xql.errors import EnvironmentFault, InputError, Terminated
from xql.experiments.command import as_command


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (InputError("no table 'x'", hint="name one"), None, "no table 'x'; name one"),
        (
            EnvironmentFault("step raised KeyError", where="Line"),
            None,
            "Line: step raised KeyError",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
    ],
)
def test_an_error_is_one_line(
    error: BaseException,
    status: int | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["table"])
    with pytest.raises(SystemExit) as left:
        as_command(main, "table")
    # A text is printed by the interpreter, and the status is 1 then.
    printed = capsys.readouterr().err.strip() if status else left.value.code
    assert printed == f"xql.experiments.table: {says}"
    assert status is None or left.value.code == status
