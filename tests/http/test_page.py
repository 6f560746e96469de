"""The browser page: what is served, and what the files may not do."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import pytest

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.page import Page

PATHS = ["/", "/page.js", "/page.css"]


def file(name: str) -> str:
    """Return one of the page's files."""
    return (resources.files("trio_gateway.http.page") / name).read_text("utf-8")


async def get(path: str, method: str = "GET", **headers: str) -> HttpResponse | Refusal | None:
    """Ask the page for a path; ``_`` in a header's name stands for ``-``."""
    return await Page()(
        HttpRequest(
            method=method,
            path=path,
            query={},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            body=b"",
            remote="",
        )
    )


@pytest.mark.parametrize(
    "path, name, content_type",
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
    ],
)
async def test_the_three_files_are_served(path: str, name: str, content_type: str) -> None:
    """Each with its type, and fenced in."""
    response = await get(path)
    assert isinstance(response, HttpResponse)
    assert (response.status, response.content_type) == (200, content_type)
    assert response.body.decode() == file(name)
    headers = dict(response.headers)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-cache"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_that_did_not_change_is_not_sent_again(path: str) -> None:
    """304 for its ETag, alone, weak or in a list; 200 for another one."""
    response = await get(path)
    assert isinstance(response, HttpResponse)
    etag = dict(response.headers)["ETag"]
    assert re.fullmatch(r'"[0-9a-f]+"', etag)
    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await get(path, if_none_match=value)
        assert isinstance(again, HttpResponse)
        assert (again.status, again.body) == (304, b"")
        assert dict(again.headers)["ETag"] == etag
    for value in ('"other"', "", etag.strip('"')):
        other = await get(path, if_none_match=value)
        assert isinstance(other, HttpResponse)
        assert other.status == 200


@pytest.mark.parametrize("path", PATHS)
async def test_the_page_is_read_only(path: str) -> None:
    """405 with ``Allow``."""
    refusal = await get(path, "POST")
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.headers) == (405, (("Allow", "GET, HEAD"),))


@pytest.mark.parametrize("path", ["/index.html", "/page.js/", "//", "/../page.js", "/favicon.ico"])
async def test_no_other_path_is_the_pages(path: str) -> None:
    """There are three addresses, not a directory."""
    assert await get(path) is None


class Elements(HTMLParser):
    """Collects start tags and what stands in scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data


def elements() -> Elements:
    """Return the page's elements."""
    parser = Elements()
    parser.feed(file("index.html"))
    return parser


def test_nothing_runs_inline_and_nothing_comes_from_elsewhere() -> None:
    """What the policy forbids isn't there."""
    page = elements()
    assert page.inline == ""
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in ("src", "href"):
                assert value in ("/page.js", "/page.css", "data:,")


def test_every_field_has_a_label_and_every_region_a_name() -> None:
    """A screen reader can tell them apart."""
    page = elements()
    labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        if tag == "input":
            assert attributes["id"] in labelled
        if tag == "section":
            assert attributes["aria-labelledby"] in ids
        if attributes.get("role") == "log":
            assert attributes["aria-label"]
    assert ("html", {"lang": "en"}) in page.tags


def test_text_of_others_never_becomes_markup() -> None:
    """The script has no way to make HTML, or code, out of a text."""
    script = file("page.js")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval",
        "DOMParser",
    ):
        assert word not in script


def test_the_script_and_the_page_agree_on_the_ids() -> None:
    """Every element that the script asks for is there."""
    ids = {attributes.get("id") for _, attributes in elements().tags}
    asked = set(re.findall(r'\$\("([^"]+)"\)', file("page.js")))
    assert asked
    assert asked <= ids


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here")
def test_the_script_is_javascript() -> None:
    """Node reads it."""
    with resources.as_file(resources.files("trio_gateway.http.page") / "page.js") as path:
        subprocess.run(["node", "--check", path], check=True)
