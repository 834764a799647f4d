"""Prepare docstrings and signatures for the API reference.

The docstrings are written to be read in the code: equations are indented, names stand in single
backticks, and shapes are written as jaxtyping does. reStructuredText would take an indented block
for a quotation and the bar in π(a|s) for a substitution; autodoc would print a shape as the long
name of a class.
"""

import ast
import inspect
import re
import textwrap
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

SECTION = re.compile(
    r"^(Args|Arguments|Returns|Raises|Yields|Attributes|Example|Examples|Note|Notes):$"
)
LIST_ITEM = re.compile(r"^\s*(\d+\.|-|\*) ")


def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Mark indented blocks as literal and escape bars, up to the first Google section."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # what Python says of a NamedTuple's field without a docstring
        return
    end = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
    sections = [_escape(line) for line in lines[end:]]
    sections = ["Fields:" if line == "Attributes:" else line for line in sections]
    # Without the empty line napoleon takes what stands before a property's first colon for a type.
    first = [""] if what in ("attribute", "property") else []
    lines[:] = [*first, *_literal_blocks(lines[:end]), *sections]


def _literal_blocks(lines: list[str]) -> list[str]:
    found: list[str] = []
    for block in _blocks(lines):
        indent = min((len(line) - len(line.lstrip()) for line in block if line.strip()), default=0)
        if LIST_ITEM.match(block[0]):
            # " 1. …" is aligned with "10. …" by a space that would make it a quotation.
            found += [_escape(line) for line in textwrap.dedent("\n".join(block)).split("\n")]
        elif indent >= 3:
            found += ["::", "", *block]
        else:
            found += [_escape(line) for line in block]
        found.append("")
    return found


def _blocks(lines: list[str]) -> list[list[str]]:
    """Paragraphs, where blank lines part them; indented neighbours are one block."""
    blocks: list[list[str]] = []
    current: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            if (
                current
                and line.startswith("    ") != current[-1].startswith("    ")
                and not any(LIST_ITEM.match(one) for one in current)
            ):
                blocks.append(current)
                current = []
            current.append(line)
        elif current:
            blocks.append(current)
            current = []
    joined: list[list[str]] = []
    for block in blocks:
        indented = block[0].startswith("    ")
        if indented and joined and joined[-1][0].startswith("    "):
            joined[-1] += ["", *block]
        else:
            joined.append(block)
    return joined


def _escape(line: str) -> str:
    """The bars outside backticks, escaped."""
    parts = re.split(r"(`+[^`]*`+)", line)
    return "".join(
        part if part.startswith("`") else re.sub(r"(?<!\\)\|", r"\\|", part) for part in parts
    )


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """The signature as the source writes it: Float[Array, "batch observation"]."""
    if args is None:
        return None
    node = _function(obj) if what in ("function", "method") else None
    if node is None:
        return args.replace("<factory>", "..."), returns
    known = getattr(inspect.unwrap(obj), "__globals__", {})
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args]
    if what == "method" and listed and listed[0].arg in ("self", "cls"):
        (arguments.posonlyargs or arguments.args).pop(0)
    for one in ast.walk(arguments):
        if isinstance(one, ast.arg) and one.annotation is not None:
            one.annotation = _Qualify(known).visit(one.annotation)
    result = None if node.returns is None else _Qualify(known).visit(node.returns)
    return f"({_tidy(ast.unparse(arguments))})", result and _tidy(ast.unparse(result))


class _Qualify(ast.NodeTransformer):
    """Names of this project's classes as ~module.Class, which Sphinx links and shows as Class."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.Name:
        found = self.known.get(node.id)
        if isinstance(found, type) and found.__module__.startswith("xql."):
            return ast.Name(f"~{found.__module__}.{found.__qualname__}")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        # "GaussianPolicy" is a name, "batch observation" is a shape.
        if isinstance(node.value, str) and isinstance(self.known.get(node.value), type):
            return self.visit_Name(ast.Name(node.value))
        return node


def _tidy(text: str) -> str:
    return text.replace("'", '"')


def _function(obj: Any) -> ast.FunctionDef | None:
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
        (node,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


KEY = re.compile(r"Key\[Array, \"\"\]( \| UInt32\[Array, \"[24]\"\]){2}")


def shorten(app: Sphinx, doctree: nodes.document) -> None:
    """Types of fields, which autodoc reads from the running class: Array, not jaxlib._jax.Array.

    And fields that the class's own list describes are not listed once more.
    """
    for node in list(doctree.findall(addnodes.desc_sig_literal_string)):
        text = node.astext()
        node.children = []
        node += nodes.Text(text.replace("'", '"'))
    for node in list(doctree.findall(addnodes.desc)):
        content = next(iter(node.findall(addnodes.desc_content)), None)
        if node["objtype"] == "attribute" and content is not None and not content.astext():
            listed = [
                one.astext() for one in node.parent.children if isinstance(one, nodes.field_list)
            ]
            if any("Fields" in one for one in listed):
                node.parent.remove(node)
    for kind in (addnodes.desc_parameter, addnodes.desc_annotation, addnodes.desc_returns):
        for node in list(doctree.findall(kind)):
            text = node.astext()
            if "jaxlib._jax.Array" in text or "numpy.ndarray, '" in text:
                plain = text.replace("jaxlib._jax.Array", "Array").replace("'", '"')
                plain = KEY.sub("PRNGKeyArray", plain.replace("numpy.ndarray", "np.ndarray"))
                node.children = []
                node += nodes.Text(plain)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect them; docstrings before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-read", shorten)
    return {"version": "1", "parallel_read_safe": True}
