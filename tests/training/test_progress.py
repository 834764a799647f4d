import pytest

from xql.training.progress import ProgressBar


def test_what_is_said_is_text_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(10, 1, enabled=True) as bar:
        bar.say("name[/bold] \x1b[31m: 5 transitions")
        bar.warn_once("[red]jumps\x07[/nothing]")
    printed = capsys.readouterr().err
    assert "name[/bold] \\x1b[31m: 5 transitions" in printed
    assert "warning: [red]jumps\\x07[/nothing]" in printed
