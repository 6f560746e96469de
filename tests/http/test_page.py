"""The browser page: what is served, and what the files may not do."""

import gzip
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import pytest

from trio_gateway.apps.assembly import Application, ApplicationSettings
from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.messages import HttpRequest, HttpResponse
from trio_gateway.http.page import Page
from trio_gateway.hub.memory import MemoryBroker

SCRIPTS = ["gateway.js", "page.js", "page-chat.js", "page-dom.js", "page-notes.js"]
PATHS = ["/", "/gateway.d.ts", "/page.css", "/icon.svg", *(f"/{name}" for name in SCRIPTS)]


def file(name: str) -> str:
    """Return one of the page's files."""
    return (resources.files("trio_gateway.http.page") / name).read_text("utf-8")


async def get(path: str, method: str = "GET", **headers: str) -> HttpResponse | Refusal | None:
    """Ask the page for a path; ``_`` in a header's name stands for ``-``."""
    return await Page()(await request(path, method, **headers))


async def request(path: str, method: str = "GET", **headers: str) -> HttpRequest:
    """Return a request."""
    return HttpRequest(
        method=method,
        path=path,
        query={},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=b"",
        remote="",
    )


@pytest.mark.parametrize(
    "path, name, content_type",
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/gateway.d.ts", "gateway.d.ts", "text/plain; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
        *((f"/{name}", name, "text/javascript; charset=utf-8") for name in SCRIPTS),
    ],
)
async def test_the_files_are_served(path: str, name: str, content_type: str) -> None:
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
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", PATHS)
async def test_who_takes_gzip_gets_it(path: str) -> None:
    """The same bytes, smaller, under an ETag of their own; caches are told why."""
    plain, packed = await get(path), await get(path, accept_encoding="br;q=1.0, gzip;q=0.8")
    assert isinstance(plain, HttpResponse)
    assert isinstance(packed, HttpResponse)
    assert plain.body == gzip.decompress(packed.body)
    assert len(packed.body) < len(plain.body)
    assert "gzip" == dict(packed.headers)["Content-Encoding"]
    assert "Content-Encoding" not in dict(plain.headers)
    etags = [dict(response.headers)["ETag"] for response in (plain, packed)]
    assert etags[0] != etags[1]
    for response in (plain, packed):
        assert "Accept-Encoding" == dict(response.headers)["Vary"]
    again = await get(path, accept_encoding="gzip", if_none_match=etags[1])
    assert isinstance(again, HttpResponse)
    assert 304 == again.status
    assert "Content-Encoding" not in dict(again.headers)


@pytest.mark.parametrize("header", ["", "identity", "br, deflate", "gzip;q=0", "gzip; q=0.000, *"])
async def test_who_does_not_take_gzip_gets_none(header: str) -> None:
    """Refused by a weight of nothing, too."""
    response = await get("/page.css", accept_encoding=header)
    assert isinstance(response, HttpResponse)
    assert file("page.css").encode() == response.body


async def test_the_page_knows_whether_to_ask_for_a_token() -> None:
    """By an attribute of the document, which has its own ETag."""
    asked = await Page("jwt")(await request("/"))
    unasked = await get("/")
    assert isinstance(asked, HttpResponse)
    assert isinstance(unasked, HttpResponse)
    assert b'data-auth="jwt"' in asked.body
    assert b'data-auth="none"' in unasked.body
    assert asked.headers[0] != unasked.headers[0]


async def test_without_the_page_there_is_none() -> None:
    """``page=False``: nobody answers for its addresses; health stays."""
    http = Application(MemoryBroker(), ApplicationSettings(page=False)).http
    for path in PATHS:
        assert await http(await request(path)) is None
    assert await http(await request("/healthz")) is not None


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


@pytest.mark.parametrize(
    "path", ["/index.html", "/page.js/", "//", "/../page.js", "/favicon.ico", "/__init__.py"]
)
async def test_no_other_path_is_the_pages(path: str) -> None:
    """There are addresses, not a directory."""
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
                assert value is not None
                assert value in PATHS or value.startswith("#"), (tag, value)


def test_every_field_has_a_label_and_every_region_a_name() -> None:
    """A screen reader can tell them apart."""
    page = elements()
    labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        if tag in ("input", "textarea"):
            assert attributes["id"] in labelled
        if tag in ("section", "nav", "aside", "dialog"):
            assert attributes.get("aria-label") or attributes["aria-labelledby"] in ids
    assert ("html", {"lang": "en", "data-auth": "none"}) in page.tags


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_of_others_never_becomes_markup(name: str) -> None:
    """No script has a way to make HTML, or code, out of a text."""
    script = file(name)
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
    """Every element that a script asks for is there."""
    ids = {attributes.get("id") for _, attributes in elements().tags}
    asked = {id for name in SCRIPTS for id in re.findall(r'\$\("([^"]+)"\)', file(name))}
    assert asked
    assert asked <= ids


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here")
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_javascript(name: str) -> None:
    """Node reads them, as modules."""
    script = file(name).encode()
    subprocess.run(["node", "--check", "--input-type=module", "-"], input=script, check=True)


def test_the_client_depends_on_nothing() -> None:
    """It is one file, to be copied or served."""
    assert re.findall(r"^\s*import\b|\bimport\(", file("gateway.js"), re.MULTILINE) == []
