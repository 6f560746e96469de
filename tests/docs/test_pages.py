"""The documentation is true: its code runs, its commands exist, its links lead somewhere."""

import ast
import builtins
import inspect
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from tests.docs.pages import (
    DOCS,
    NOT_RUN,
    PAGES,
    ROOT,
    Block,
    all_blocks,
    anchors,
    blocks,
    links,
    paths,
    prose,
)
from trio_gateway.cli import program
from trio_gateway.cli.flags import SETTINGS
from trio_gateway.cli.options import serve_options

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
LANGUAGES = {
    "",
    "console",
    "haproxy",
    "ini",
    "js",
    "json",
    "nginx",
    "promql",
    "python",
    "sh",
    "toml",
    "wire",
    "yaml",
}
_OURS = re.compile(
    r"(?:\S*python3? -P? ?-m trio_gateway|\S*trio-gateway|scripts/(?:serve|storm))\b"
)
_INTERNAL = re.compile(r"https?://|ws://|mailto:")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Each link inside the tree has its file, and the heading behind the #."""
    for link in links(page):
        if _INTERNAL.match(link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {link}"


@each_page
def test_paths_exist(page: Path) -> None:
    """Each path that is named is there, and each test behind its ``::``."""
    for path in paths(page):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for path, test in re.findall(r"`(tests/[\w/.]+)::(\w+)`", prose(page)):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{path} has no {test}"


def test_every_page_is_in_the_index() -> None:
    """Whoever opens the index finds each page and each example."""
    linked = {(DOCS / link).resolve() for link in links(DOCS / "index.md")}
    here = {page for page in DOCS.rglob("*.md") if page.name != "index.md"}
    examples = {path for path in (DOCS / "examples").iterdir() if path.suffix in (".py", ".sh")}
    assert here | examples <= linked


@each_page
def test_metrics_are_those_of_their_page(page: Path) -> None:
    """A metric that a page names is told in ``docs/metrics.md``, which has tests of its own."""
    pattern = re.compile(r"`(trio_gateway_\w+)`")
    known = pattern.findall(prose(DOCS / "metrics.md"))
    assert set(pattern.findall(prose(page))) <= set(known)


def test_every_block_has_a_language_that_is_looked_at() -> None:
    """A misspelt language would be a block that nothing checks."""
    assert {block.language for block in all_blocks()} <= LANGUAGES


@each_page
async def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one namespace, and so do their tests."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        code = compile("\n" * (block.line - 1) + block.text, ROOT / block.page, "exec")
        if block.runs:
            exec(code, names)
    for name, test in list(names.items()):
        if not name.startswith("test_") or inspect.signature(test).parameters:
            continue  # one that wants fixtures has a test of its own
        assert inspect.iscoroutinefunction(test)
        with trio.fail_after(30):
            await test()


def test_python_that_cannot_run_has_its_names() -> None:
    """It says why it is not run; what it imports exists, and no name is used that is nowhere."""
    for block in all_blocks("python"):
        if not block.runs:
            check_names(block)


def check_names(block: Block) -> None:
    """Check a block of Python without running it."""
    assert len(block.text.splitlines()[0]) > len(NOT_RUN)
    tree = ast.parse(block.text)
    known = set(dir(builtins))
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                found = __import__(module, fromlist=["_"])
                for name in node.names:
                    assert hasattr(found, name.name), f"{block}: {module} has no {name.name}"
                    known.add(name.asname or name.name)
            case ast.Import():
                for name in node.names:
                    __import__(name.name)
                    known.add((name.asname or name.name).partition(".")[0])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                known.add(node.name)
            case ast.arg(arg=name):
                known.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                known.add(name)
            case _:
                pass
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used <= known, f"{block}: {used - known}"


def flags_of(command: str) -> set[str]:
    """Return the long flags of one of our commands."""
    found = program.commands[command]
    return {"--help"} | {
        flag
        for parameter in found.params
        if isinstance(parameter, click.Option)
        for flag in [*parameter.opts, *parameter.secondary_opts]
    }


def check_command(line: str, where: object) -> None:
    """Check a shell command, if it is one of ours."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        if re.fullmatch(r"(\./)?scripts/\w+", word):
            assert (ROOT / word).exists(), f"{where}: there is no {word}"
        if word.endswith("scripts/storm"):
            return check_flags("storm", words[at + 1 :], where)
        ours = word == "trio_gateway" and words[at - 1] == "-m"
        if ours or word.rpartition("/")[2] == "trio-gateway" or word.endswith("scripts/serve"):
            rest = words[at + 1 :]
            if rest and not rest[0].startswith("-"):
                assert rest[0] in program.commands, f"{where}: no command {rest[0]!r}"
                return check_flags(rest[0], rest[1:], where)
            return check_flags("serve", rest, where)
    return None


def check_flags(command: str, words: list[str], where: object) -> None:
    """Check the flags of a command."""
    told = {word.partition("=")[0] for word in words if word.startswith("--")}
    unknown = told - flags_of(command) - {"--version"}
    assert not unknown, f"{where}: {command} has no {unknown}"


def commands(block: Block) -> list[str]:
    """Return the commands of a console or shell block, each on one line."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        return [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@each_page
def test_code_is_fenced(page: Path) -> None:
    """Indented code has no language, so nothing would run it."""
    indented = re.findall(
        r"^ {4,}(?:async )?(?:def |import |from |\$ |python |scripts/).*$",
        prose(page),
        re.MULTILINE,
    )
    assert [] == indented


@pytest.mark.parametrize("block", all_blocks("console", "sh"), ids=str)
def test_commands_exist(block: Block) -> None:
    """Our commands and flags are real; a console block has commands behind its prompts."""
    assert commands(block)
    for line in commands(block):
        check_command(line, block)


def test_units_start_what_exists() -> None:
    """The commands and variables of a systemd unit are real."""
    for block in all_blocks("ini"):
        text = block.text.replace("\\\n", " ")
        for line in re.findall(r"^Exec\w+=(.*)$", text, re.MULTILINE):
            check_command(line, block)
        known = {f"TRIO_GATEWAY_{setting.name.upper().replace('-', '_')}" for setting in SETTINGS}
        told = set(re.findall(r"TRIO_GATEWAY_\w+", text))
        assert told <= known | {"TRIO_GATEWAY_CONFIG"}


def test_settings_files_are_understood(tmp_path: Path) -> None:
    """``serve`` takes each settings file as it is."""
    for number, block in enumerate(all_blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block.text, encoding="utf-8")
        options = serve_options({"config": str(path)}, {})
        known = {setting.name for setting in SETTINGS}
        assert set(tomllib.loads(block.text)) <= known, block
        assert options.given


def test_json_is_json() -> None:
    """Blocks of JSON can be read."""
    for block in all_blocks("json"):
        json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_named_in_the_text_exist(page: Path) -> None:
    """A flag in backticks belongs to a command of ours or to one of our scripts."""
    ours = {flag for command in program.commands for flag in flags_of(command)}
    ours.add("--version")
    for script in (ROOT / "scripts").rglob("*"):
        if script.is_file() and script.suffix in ("", ".py"):
            ours |= set(FLAG.findall(script.read_text(encoding="utf-8")))
    told = {flag for span in re.findall(r"`([^`\n]+)`", prose(page)) for flag in FLAG.findall(span)}
    assert told <= ours, f"{page.name}: {told - ours}"


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+(?![\w-])")


@pytest.mark.parametrize(
    "script", sorted(path for path in (DOCS / "examples").glob("*.sh")), ids=lambda path: path.name
)
def test_scripts_can_be_read_by_a_shell(script: Path) -> None:
    """``sh -n`` finds no mistake, and what it calls of ours exists."""
    subprocess.run(["sh", "-n", script], check=True)
    for line in script.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if "trio_gateway" in line and not line.startswith("#"):
            check_command(
                line.replace("${PYTHON:-python3}", "python3").replace('"python3"', "python3"),
                script,
            )
