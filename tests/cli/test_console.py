"""What a terminal shows that a file does not get: a sign of life, and words that are not cut."""

import io
import subprocess
import sys

import pytest

from xql import cli
from xql.cli import console, main, make
from xql.cli.console import plain_console, print_words, with_flags

FIRST = {
    "train offline --data log.npz": "opening log.npz",
    "train online --env Pendulum-v1": "making Pendulum-v1",
    "evaluate runs/a --episodes 7": "evaluating runs/a: 7 episodes for each member",
    "demo": "data: pointmaze/medium-play-v0, 200,000 transitions",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_command_says_what_it_begins_with_before_anything_slow_is_imported() -> None:
    code = f"""
import sys
class Said(BaseException): pass
class Terminal:
    encoding, errors = "utf-8", "strict"
    def isatty(self): return True
    def flush(self): pass
    def write(self, text): raise Said(text)
from xql.cli import main
error, sys.stderr = sys.stderr, Terminal()
for command in {list(FIRST)}:
    try: main(command.split())
    except Said as said: print(said)
    slow = {{"jax", "scipy", "orbax", "gymnasium", "h5py"}} & set(sys.modules)
    assert not slow, (command, slow)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == list(FIRST.values()), done.stderr


def test_lists_and_help_import_nothing_slow() -> None:
    code = """
import sys
from xql.cli import main
for words in ("data list", "data list --help", "--help", "data --help", "--version"):
    try: main(words.split())
    except SystemExit: pass
print(sorted({"jax", "scipy", "numpy", "gymnasium", "h5py"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_list_of_what_can_be_made_is_whole() -> None:
    each = {name: bool(one.policy) and one.needs_policy for name, one in make.kinds().items()}
    assert each == make.MADE


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_file_gets_one_line_of_bad_input(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = kind()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit) as end:
        main(["train", "offline", "--data", "no\x1bthing.npz"])
    assert end.value.code == 2
    *before, last = stream.getvalue().splitlines()
    assert before == (["opening no\\x1bthing.npz"] if kind is Terminal else [])
    assert last.startswith("xql: no\\x1bthing.npz: ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("`steps=0` is too small", "--steps 0 is too small"),
        ("give fewer, or more `last_episodes`", "give fewer, or more --last-episodes"),
        ("train it with `keep_policies=True`", "train it with --keep-policies"),
        ("or train without: `env='none'`", "or train without: --env none"),
        ("allow it with `trust=['worlds']`", "allow it with --trust-environment worlds"),
        ("give `options={'beta': …}`", "give --set beta=…"),
        ("`sweep`, `options`: beta is swept and given", "--sweep, --set: beta is swept and given"),
        ("`gymnasium.pprint_registry()` lists them", "`gymnasium.pprint_registry()` lists them"),
        ("a`steps`.npz, `e`.csv, b/`x=1`/c: `out`.", "a`steps`.npz, `e`.csv, b/`x=1`/c: --out."),
    ],
)
def test_the_command_line_shows_flags_for_arguments(said: str, shown: str) -> None:
    assert with_flags(said) == shown


def test_no_word_is_cut_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "12.5 [10.25, 14.75] of /a/very-long/path-of-a-run/that-no-row-holds\n[x] of 2"
    print_words(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_words(text)
    rows = ["12.5 [10.25, 14.75]", "of", "/a/very-long/path-of-a-run/that-no-row-holds", "[x] of 2"]
    assert capsys.readouterr().out.splitlines() == rows


@pytest.mark.parametrize(("command", "indent"), [("--help", 13), ("paper list", 19)])
def test_lists_go_on_below_their_second_column(
    command: str,
    indent: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "60")
    main(command.split())
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 60
    assert [row for row in printed if row.startswith(" " * indent)]


def test_a_warning_shows_flags_for_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_warning("it is damaged; load an earlier one with `step`", UserWarning)
    assert capsys.readouterr().err == "warning: it is damaged; load an earlier one with --step\n"


def test_a_table_for_a_reader_that_has_gone_is_left_to_the_exit_status() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        plain_console(file=Gone()).print("a table")
