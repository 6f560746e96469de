"""The pages of the documentation, as the tests read them.

In: the Markdown of ``README.md``, ``CHANGELOG.md`` and ``docs/``. Out: code blocks, links, tables,
and the paths that are named. The rule: a block is run as it stands; one that cannot be run says why
in its first line, where its reader sees it too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import attrs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
NOT_RUN = "# Not run in the tests: "
"""How the first line of a block begins that cannot be run; the rest of the line says why."""

_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(
    r"(?:trio_gateway|tests|scripts|docs|deploy|\.ci)/[\w./-]+|[A-Z]+\.md|pyproject\.toml"
)


@attrs.frozen
class Block:
    """A fenced block of code.

    Attributes:
        page: where it stands, from the root of the tree.
        line: the number of its first line.
        language: the word behind the fence.
        text: its lines.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it says nothing against being run."""
        return not self.text.startswith(NOT_RUN)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, in their order; all without any."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, text.count("\n", 0, found.start(3)) + 1, found[2], dedent(found[3]))
        for found in _BLOCK.finditer(text)
        if not languages or found[2] in languages
    ]


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages."""
    return [block for page in PAGES for block in blocks(page, *languages)]


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and images."""
    yield from (found[1] for found in _LINK.finditer(prose(page)))


def paths(page: Path) -> set[str]:
    """Return the paths of this tree that a page names in its text."""
    spans = _SPAN.findall(prose(page))
    return {span.partition("::")[0] for span in spans if _PATH.fullmatch(span.partition("::")[0])}


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, its own first row left out."""
    text = page.read_text(encoding="utf-8")
    _, found, below = text.partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r}"
    rows: list[list[str]] = []
    for line in below.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            break
    return rows[2:]


def codes(cell: str) -> list[str]:
    """Return what stands in backticks in a cell."""
    return _SPAN.findall(cell)
