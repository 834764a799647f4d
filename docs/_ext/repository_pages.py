"""Bring the repository's own pages into the site, and point links at them.

`docs/` links to files beside it, such as `../results/peers/table.md`, so that the pages read well
as files too. Sphinx only knows files below `docs/`. Before a build these files are therefore copied
to `docs/repository/` (which git ignores), and links are rewritten while a page is read.
"""

import posixpath
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

COPIES = "repository"
PAGES = ("[A-Z]*.md", "results/**/*.md")
PICTURES = ("results/*/*.png",)
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def copy_pages(app: Sphinx) -> None:
    """Copy the pages and pictures that changed."""
    docs = Path(app.srcdir)
    kept = set()
    for pattern in (*PAGES, *PICTURES):
        for source in docs.parent.glob(pattern):
            if source == docs.parent / "README.md":
                continue  # the site has a first page of its own
            target = docs / COPIES / source.relative_to(docs.parent)
            kept.add(target)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    for old in (docs / COPIES).rglob("*"):
        if old.is_file() and old not in kept:
            old.unlink()


def rewrite_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Make relative links between `docs/` and its neighbours links within `docs/`."""
    text = content[0]
    folder = posixpath.dirname(docname)
    copied = docname.startswith(f"{COPIES}/")
    # Where the page stands in the repository, from whose root its links are resolved.
    home = posixpath.relpath(folder, COPIES) if copied else posixpath.join("docs", folder)

    def rewrite(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(home, target))
        inside = path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}"
        if inside == f"{COPIES}/README.md":
            inside = "index.md"
        if not (Path(app.srcdir) / inside).is_file():
            return match[0]  # Sphinx says what is wrong with it
        return match[1] + posixpath.relpath(inside, folder or ".") + match[3]

    if copied and "\n# " not in f"\n{text}":
        # The tables that code writes have no title of their own.
        text = f"# {posixpath.basename(docname)}\n\n{text}"
    content[0] = LINK.sub(rewrite, text)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect both."""
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", rewrite_links)
    return {"version": "1", "parallel_read_safe": True}
