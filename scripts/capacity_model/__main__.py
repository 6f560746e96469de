"""``scripts/capacity``: write the tables and the chart; ``--measure`` measures a return instead."""

import sys
from pathlib import Path

from scripts.capacity_model.chart import draw
from scripts.capacity_model.measure import load, measure
from scripts.capacity_model.page import filled

_DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: list[str]) -> None:
    match arguments:
        case ["--load", port, count, since]:
            load(int(port), int(count), since)
        case ["--measure"]:
            measure()
        case []:
            page = _DOCS / "capacity.md"
            page.write_text(filled(page.read_text("utf-8")), "utf-8")
            (_DOCS / "capacity.svg").write_text(draw(), "utf-8")
            print("wrote docs/capacity.md and docs/capacity.svg")
        case _:
            sys.exit("usage: scripts/capacity [--measure]")


main(sys.argv[1:])
