"""The storm guide says what there is."""

from pathlib import Path

from trio_gateway.cli.storm import command
from trio_gateway.storm import FAULTS

GUIDE = (Path(__file__).parents[2] / "docs" / "storm.md").read_text(encoding="utf-8")


def test_its_table_has_every_fault() -> None:
    """One row a fault, in the order of the code, in its words."""
    rows = GUIDE.partition("| fault | stands for |\n| --- | --- |\n")[2].splitlines()
    assert [f"| `{fault.name}` | {fault.stands_for} |" for fault in FAULTS.values()] == rows


def test_it_tells_every_flag() -> None:
    """None is missing; a pair is told by the one that is not the default."""
    flags = {name for option in command.params for name in option.opts if name[:2] == "--"}
    flags = {"--no-shrink" if name == "--shrink" else name for name in flags}
    assert set() == {flag for flag in flags if f"`{flag}" not in GUIDE}
