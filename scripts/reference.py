"""Makes the API reference with pdoc: ``python scripts/reference.py FOLDER``.

In: the docstrings of the public modules. Out: HTML. The rule: a warning is an error, so that a
docstring or an annotation that cannot be shown is mended, not skipped.
"""

import builtins
import inspect
import re
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.docstrings
import pdoc.render

import trio_gateway

MODULES = (
    "trio_gateway",
    "trio_gateway.apps.assembly",
    "trio_gateway.apps.chat",
    "trio_gateway.apps.identity",
    "trio_gateway.apps.notifications",
    "trio_gateway.client",
    "trio_gateway.errors",
    "trio_gateway.handshake.origins",
    "trio_gateway.http.asgi",
    "trio_gateway.http.chain",
    "trio_gateway.hub.broker",
    "trio_gateway.hub.hub",
    "trio_gateway.hub.memory",
    "trio_gateway.hub.positions",
    "trio_gateway.hub.redis",
    "trio_gateway.hub.sqlite",
    "trio_gateway.settings",
    "trio_gateway.storm",
    "trio_gateway.testing",
    "trio_gateway.testing.broker",
    "trio_gateway.testing.network",
    "trio_gateway.tokens",
)


def make(folder: Path) -> None:
    """Write the reference into a folder, which is made."""
    # An alias names it in quotes, and pdoc looks for it in each module that uses the alias.
    setattr(builtins, "Upgrade", trio_gateway.Upgrade)  # noqa: B010  # no type checker knows it
    _join_literal_blocks()
    # pdoc's own are UserWarnings; a deprecation in a library is no fault of ours.
    warnings.simplefilter("error", UserWarning)
    pdoc.render.configure(
        docformat="google",
        include_undocumented=False,  # what a field is stands in the docstring of its class
        show_source=False,
        footer_text=f"trio_gateway {trio_gateway.__version__}",
    )
    for name in MODULES:
        _leave_constructors_to_their_class(name)
    pdoc.pdoc(*MODULES, output_directory=folder)


def _join_literal_blocks() -> None:
    """Have ``::`` begin a block of code, as in reStructuredText; for Markdown its indent does."""
    convert = pdoc.docstrings.rst

    def without_colons(contents: str, source_file: Path | None) -> str:
        contents = re.sub(r"(?m)^::\n", "", contents)
        return convert(re.sub(r"(?m)(?<=\S) ?::$", ":", contents), source_file)

    pdoc.docstrings.rst = without_colons


def _leave_constructors_to_their_class(module: str) -> None:
    """Keep pdoc from showing what attrs says, or what a base class's constructor takes."""
    __import__(module)
    for _, found in inspect.getmembers(sys.modules[module], inspect.isclass):
        own = vars(found).get("__init__")
        if not inspect.isfunction(own) or not found.__module__.startswith("trio_gateway"):
            continue
        if own.__doc__ is None or own.__doc__.startswith("Method generated"):
            own.__doc__ = ""


if __name__ == "__main__":
    make(Path(sys.argv[1]))
