"""Bad configurations, bad words on the command line, and bad tables."""

from soak.frame import Case, Place


def _missing(place: Place) -> list[str]:
    return ["data", "info", str(place.inputs / "x.npz")]


CASES: list[Case] = [
    Case("unknown command", "words", lambda _: ["trian"], says="did you mean 'train'?"),
    Case("no such file", "words", _missing, says="no such file"),
]
