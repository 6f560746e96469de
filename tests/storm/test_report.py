"""The report: one page that needs nothing, tells everything, and trusts no byte of anybody's."""

from collections import Counter
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
import trio
from click.testing import CliRunner

from trio_gateway import Gateway, Upgrade, serve_websocket
from trio_gateway.cli.storm import command
from trio_gateway.errors import ConfigurationError
from trio_gateway.storm import Finding, Recording, Sample, generate
from trio_gateway.storm.report import Small, render
from trio_gateway.storm.report.series import moments

_VOID = {"meta", "line", "rect", "circle", "path"}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def sample(second: float, **more: object) -> Sample:
    fields: dict[str, object] = {
        "second": second,
        "seconds": 0.25,
        "open": 5,
        "connects": 10,
        "accepts": (0.002,),
        "controls": (0.001, 0.004),
        "statuses": {"101": 3, "400": 1},
        "closes": {1000: 2},
        "lag": 0.003,
        "gauges": {"memory": 50 * 2.0**20, "descriptors": 20.0},
    }
    return Sample(**(fields | more))  # type: ignore[arg-type]  # of a test's own making


@pytest.fixture
def recording() -> Recording:
    found = Finding(
        "second-101", "a second 101", 1.0, "two-routes-at-once", 7, ("client 7", "← 101")
    )
    return Recording(
        seed=42,
        url="ws://127.0.0.1:3000/",
        profile="gateway",
        started=1.0,
        samples=[sample(0.25 * number) for number in range(1, 200)],
        statuses={"well-behaved": Counter({"101": 5}), "garbage": Counter({"400": 3, "left": 1})},
        closes={"well-behaved": Counter({1000: 5})},
        findings=[found, Finding("dead", "nobody listens any more", 2.0)],
        repeats=Counter({("second-101", "two-routes-at-once"): 3}),
        baseline={"memory": 40 * 2.0**20, "descriptors": 20.0},
        after={"memory": 41 * 2.0**20, "descriptors": 20.0},
        connects=1990,
        seconds=50.0,
    )


def test_the_quiet_behind_a_storm_does_not_flatter() -> None:
    """Rate and control latencies are those of the samples in which clients came."""
    recording = Recording(
        samples=[
            sample(1.0, seconds=1.0, connects=900, controls=(0.03, 0.04)),
            sample(2.0, seconds=1.0, connects=100, controls=(0.02,)),
            sample(3.0, seconds=1.0, connects=9, controls=(0.001,)),
            sample(4.0, seconds=1.0, connects=0, controls=(0.001,)),
        ]
    )
    assert ([0.02, 0.03, 0.04], 500) == (recording.controls(), recording.rate())
    assert ([], 0) == (Recording().controls(), Recording().rate())


class Read(HTMLParser):
    """Reads a page: its tags in order, its text, what it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "onerror"}]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_tells_everything(recording: Recording) -> None:
    """Seed, command, findings with transcripts, their small storms, figures, faults."""
    program = generate(42, clients=3)
    small = {"second-101": Small(command="storm --replay x.json", lines=["connect"], about="1")}
    page = Read(render(recording, command="storm --seed=42", program=program, small=small))
    for words in (
        "Storm 42",
        "2 findings",
        "ws://127.0.0.1:3000/",
        "storm --seed=42",
        "second-101",
        "client 7, two-routes-at-once · 3 times",
        "← 101",
        "storm --replay x.json",
        "nobody listens any more",
        "Open connections",
        "Control latency",
        "Accept latency",
        "40 MiB → 41 MiB",
        "20 → 20",
        "well-behaved",
        "garbage",
    ):
        assert words in page.text
    assert 7 == page.tags["svg"]
    assert [] == page.open


def test_the_page_loads_and_runs_nothing(recording: Recording) -> None:
    """No script, no link, no image, no font; a policy says so too."""
    text = render(recording)
    page = Read(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.tags)
    assert [] == page.loads
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_nothing_that_was_said_is_markup(recording: Recording) -> None:
    """Whatever a server or a fault's name has in it is text."""
    finding = Finding("outcome", HOSTILE, 1.0, HOSTILE, 1, (HOSTILE,))
    recording = attrs.evolve(
        recording,
        url=HOSTILE,
        findings=[finding],
        statuses={HOSTILE: Counter({HOSTILE: 1})},
        samples=[sample(1.0, gauges={HOSTILE: 1.0})],
    )
    page = Read(render(recording, command=HOSTILE))
    assert 0 == page.tags["script"] + page.tags["img"]
    assert [] == page.loads
    assert page.text.count(HOSTILE) >= 5


def test_a_storm_that_saw_nothing_has_a_page(recording: Recording) -> None:
    """Without samples, and with samples that have no values, it is told so."""
    assert "clean" in Read(render(Recording(seed=1))).text
    nothing = sample(
        0.0, seconds=0.0, open=0, connects=0, accepts=(), controls=(), gauges={}, lag=0
    )
    page = Read(render(Recording(samples=[nothing])))
    assert 2 == page.text.count("Nothing was measured.")


def test_long_storms_have_few_moments(recording: Recording) -> None:
    """However many samples there are, the worst of them is in a moment, and no connect is lost."""
    samples = [sample(number, seconds=1.0) for number in range(1, 1_000)]
    samples[500] = attrs.evolve(samples[500], controls=(9.0,), open=99, lag=7.0)
    found = moments(samples, most=72)
    assert len(found) <= 72
    assert (9.0, 99, 7.0) == (
        max(each.controls[-1] for each in found),
        max(each.open for each in found),
        max(each.lag for each in found),
    )
    assert 9_990 == pytest.approx(sum(each.rate * (each.end - each.begin) for each in found))


# The command.


async def echo(upgrade: Upgrade) -> None:
    connection = await upgrade.accept()
    async for message in connection:
        await connection.send_message(message)


async def test_the_command_writes_it(nursery: trio.Nursery, tmp_path: Path) -> None:
    """``storm --report FILE.html`` leaves a page with the seed and the command behind."""
    gateway: Gateway = await nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
    path = tmp_path / "r.html"
    url = f"ws://127.0.0.1:{gateway.port}/"
    words = [url, "--seed=3", "--clients=3", "--duration=0.1", "--fault=garbage"]
    result = await trio.to_thread.run_sync(
        partial(CliRunner().invoke, command, [*words, f"--report={path}"], standalone_mode=False)
    )
    assert 0 == result.return_value, result.output
    assert f"report: {path}" in result.output
    page = Read(path.read_text(encoding="utf-8"))
    assert "Storm 3" in page.text
    assert f"python -m trio_gateway storm {url} --seed=3 --clients=3" in page.text
    nursery.cancel_scope.cancel()


def test_a_page_that_cannot_be_written_is_told_before_the_storm(tmp_path: Path) -> None:
    """Not when it is over."""
    path = tmp_path / "nowhere" / "r.html"
    result = CliRunner().invoke(
        command, ["ws://127.0.0.1:9/", f"--report={path}"], standalone_mode=False
    )
    assert isinstance(result.exception, ConfigurationError)
    assert "no such folder" in str(result.exception)
