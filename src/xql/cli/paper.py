"""`xql paper …`: the paper's figures, one command each."""

from pathlib import Path

FIGURES = {"figure2": "Gumbel densities, the Gumbel loss, and a regression at three temperatures"}


def list_() -> None:
    """Say which figures can be drawn."""
    for name, about in FIGURES.items():
        print(f"xql paper {name:8} {about}")


def figure2(out: Path = Path("figure2"), seed: int = 0) -> None:
    """Draw the paper's Figure 2: densities, the loss, and Gumbel regression at three β.

    Args:
        out: the folder for figure2.png and the drawn curves as CSV.
        seed: of the regression's noise.
    """
    from xql.paper.figure2 import figure2 as draw

    print(draw(out, seed))
