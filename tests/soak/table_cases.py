"""Tables that cannot be fitted, or hardly."""

import os

from soak.frame import Case, Place, Subject

X_AND_Y = "x,y\n" + "".join(f"{i},{i * i % 7}\n" for i in range(20))
TABLES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", []),
    "spaces": ("\n\n  \n", []),
    "header alone": ("x,y\n", []),
    "one row": ("x,y\n1,2\n", []),
    "no such column": (X_AND_Y, ["--target", "z"]),
    "column of markup": (X_AND_Y, ["--target", "[/red]"]),
    "feature unknown": (X_AND_Y, ["--features", "x,z"]),
    "feature empty": (X_AND_Y, ["--features", ","]),
    "feature none": (X_AND_Y, ["--features", ""]),
    "text": ("x,y\n1,2\n2,two\n", []),
    "text in x": ("x,y\none,2\n2,3\n", []),
    "markup in a cell": ("x,y\n[red]1,2\n2,[/red]\n", []),
    "escape in a cell": ("x,y\n\x1b[31m,2\n2,3\n", []),
    "newline in a cell": ('x,y\n"1\n2",3\n2,3\n', []),
    "a long cell": ("x,y\n" + "x" * 60_000 + ",2\n", []),
    "a too long cell": ("x,y\n" + "9" * 200_000 + ",2\n", []),
    "nan": ("x,y\n1,nan\n2,3\n", []),
    "inf": ("x,y\n1,inf\n2,3\n", []),
    "minus inf in x": ("x,y\n-inf,1\n2,3\n", []),
    "missing": ("x,y\n1,\n2,3\n", []),
    "short row": ("x,y\n1\n2,3\n", []),
    "beyond float": ("x,y\n1,1e400\n2,3\n", []),
    "overflow": ("x,y\n1,1e308\n2,-1e308\n3,1e308\n", []),
    "overflow in x": ("x,y\n1e308,1\n-1e308,2\n1e308,4\n", []),
    "underflow": ("x,y\n1e-320,1e-320\n2e-320,3e-320\n4e-320,1e-321\n", []),
    "beta tiny": (X_AND_Y, ["--beta", "1e-320"]),
    "beta small": (X_AND_Y, ["--beta", "1e-300"]),
    "beta giant": (X_AND_Y, ["--beta", "1e300"]),
    "beta zero": (X_AND_Y, ["--beta", "0"]),
    "beta negative": (X_AND_Y, ["--beta", "-1"]),
    "beta nan": (X_AND_Y, ["--beta", "nan"]),
    "beta inf": (X_AND_Y, ["--beta", "inf"]),
    "beta of text": (X_AND_Y, ["--beta", "x"]),
    "model unknown": (X_AND_Y, ["--model", "[red]"]),
    "seed negative": (X_AND_Y, ["--seed", "-1"]),
    "seed giant": (X_AND_Y, ["--seed", "9" * 30]),
    "out there": (X_AND_Y, ["--out", "TABLE"]),
    "out nowhere": (X_AND_Y, ["--out", "/nowhere/x.csv"]),
    "out a device": (X_AND_Y, ["--out", "/dev/null/x.csv"]),
    "out long": (X_AND_Y, ["--out", "x" * 5000]),
    "semicolons": ("x;y\n1;2\n2;3\n", []),
    "tabs": ("x\ty\n1\t2\n", []),
    "column twice": ("x,x,y\n1,5,2\n2,7,3\n4,8,5\n", []),
    "target among features": (X_AND_Y, ["--features", "x,y"]),
    "feature twice": (X_AND_Y, ["--features", "x,x"]),
    "constant x": ("x,y\n" + "1,2\n1,3\n" * 5, []),
    "constant y": ("x,y\n" + "1,2\n3,2\n" * 5, []),
    "all constant": ("x,y\n" + "1,2\n" * 5, []),
    "mlp of one row": ("x,y\n1,2\n", ["--model", "mlp"]),
    "mlp constant": ("x,y\n" + "1,2\n" * 5, ["--model", "mlp"]),
    "mlp overflow": ("x,y\n1,1e308\n2,-1e308\n3,1e308\n", ["--model", "mlp"]),
    "mlp tiny beta": (X_AND_Y, ["--model", "mlp", "--beta", "1e-300"]),
    "latin-1": ("x,y\né,2\n".encode("latin-1"), []),
    "utf-16": (X_AND_Y.encode("utf-16"), []),
    "bytes": (bytes(range(256)) * 20, []),
    "nul bytes": (b"x,y\n1,\x002\n", []),
    "many columns": (",".join(f"c{i}" for i in range(20_000)) + "\n", []),
    "unclosed quote": ('x,y\n"1,2\n2,3\n', []),
    "header of markup": ("[red]x[/red],[/bold]\n1,2\n2,3\n3,5\n", ["--features", "[red]x[/red]"]),
}
# What can be fitted after all; whether it is, is not the point here.
FITTED = {
    *("one row", "overflow", "overflow in x", "underflow", "beta tiny", "beta small", "beta giant"),
    *("column twice", "target among features", "feature twice", "constant x", "constant y"),
    *("all constant", "mlp of one row", "mlp constant", "mlp overflow", "mlp tiny beta"),
}
ERRORS: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", []),
    "header alone": ("error\n", []),
    "one value": ("error\n1\n", []),
    "constant": ("error\n" + "2\n" * 50, []),
    "nearly constant": ("error\n1\n1.0000000000000002\n1\n", []),
    "text": ("error\n1\nx\n", []),
    "markup": ("error\n1\n[red]\n", []),
    "nan": ("error\n1\nnan\n2\n", []),
    "inf": ("error\n1\n-inf\n2\n", []),
    "overflow": ("error\n1e308\n-1e308\n1e308\n", []),
    "large": ("error\n1e200\n-1e200\n3e199\n", []),
    "denormal": ("error\n5e-324\n1e-323\n0\n", []),
    "far from zero": ("error\n1e16\n10000000000000002\n1e16\n", []),
    "one far off": ("error\n" + "0\n1\n" * 20 + "1e300\n", []),
    "two values": ("error\n1\n2\n", []),
    "no such column": ("errors\n1\n2\n", []),
    "column of markup": ("error\n1\n2\n", ["--column", "[/red]"]),
    "column empty": ("error\n1\n2\n", ["--column", ""]),
    "header twice": ("error,error\n1,2\n2,3\n", []),
    "blank lines": ("error\n\n\n", []),
    "bytes": (bytes(range(256)) * 20, []),
    "nul bytes": (b"error\n\x00\n", []),
    "utf-16": ("error\n1\n".encode("utf-16"), []),
    "plot format": ("error\n1\n2\n", ["--plot", "x.bmp"]),
    "plot without one": ("error\n1\n2\n", ["--plot", "x"]),
    "plot nowhere": ("error\n1\n2\n", ["--plot", "/nowhere/x.png"]),
    "plot there": ("error\n1\n2\n", ["--plot", "TABLE"]),
    "member of text": ("error\n1\n2\n", ["--member", "x"]),
}
FITTED_ERRORS = {
    *("nearly constant", "overflow", "large", "denormal", "far from zero", "one far off"),
    *("two values", "header twice"),
}


def _table(
    content: str | bytes, words: list[str], place: Place, name: str
) -> tuple[str, list[str]]:
    path = place.inputs / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path), [word.replace("TABLE", str(path)) for word in words]


def gumbel_cases() -> list[Case]:
    """Tables that cannot be fitted, or hardly."""
    cases = []
    for name, (content, words) in TABLES.items():

        def fit(place: Place, content: str | bytes = content, words: list[str] = words) -> Subject:
            path, more = _table(content, words, place, "[red]table.csv")
            given = [] if "--target" in more else ["--target", "y"]
            given += [] if "--features" in more else ["--features", "x"]
            return ["gumbel", "fit", path, *given, *more]

        cases.append(Case(name, "fit", fit, exits=(0, 2) if name in FITTED else (2,)))
    for name, (content, words) in ERRORS.items():

        def errors(
            place: Place, content: str | bytes = content, words: list[str] = words
        ) -> Subject:
            path, more = _table(content, words, place, "[bold]errors.csv")
            return ["gumbel", "errors", path, *more]

        cases.append(Case(name, "errors", errors, exits=(0, 2) if name in FITTED_ERRORS else (2,)))
    cases += [
        Case("a folder", "fit", lambda place: [*_FIT, "--target", "y", str(place.inputs)]),
        Case("a pipe", "fit", lambda place: [*_FIT, "--target", "y", _pipe(place)]),
        Case("a device", "fit", lambda _: [*_FIT, "--target", "y", "/dev/zero"]),
        Case("a pipe", "errors", lambda place: ["gumbel", "errors", _pipe(place)]),
        Case("a device", "errors", lambda _: ["gumbel", "errors", "/dev/zero"]),
        Case("a long name", "errors", lambda _: ["gumbel", "errors", "x" * 5000]),
    ]
    return cases


_FIT = ["gumbel", "fit", "--features", "x"]


def _pipe(place: Place) -> str:
    os.mkfifo(place.inputs / "pipe.csv")
    return str(place.inputs / "pipe.csv")


CASES = gumbel_cases()
