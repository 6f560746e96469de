"""Several handlers as one."""

from trio_gateway.handshake.refusal import Refusal
from trio_gateway.http.chain import first_of, wrong_method
from trio_gateway.http.messages import HttpRequest, HttpResponse

REQUEST = HttpRequest(method="GET", path="/", query={}, headers={}, body=b"", remote="")


async def test_the_first_answer_counts() -> None:
    """Handlers are asked in order, and none after the one that answers."""
    asked: list[str] = []

    async def silent(request: HttpRequest) -> None:
        asked.append("silent")

    async def refusing(request: HttpRequest) -> Refusal:
        asked.append("refusing")
        return Refusal(403, "no", "no")

    async def answering(request: HttpRequest) -> HttpResponse:
        asked.append("answering")
        return HttpResponse(status=200)

    answer = await first_of(silent, refusing, answering)(REQUEST)
    assert answer == Refusal(403, "no", "no")
    assert asked == ["silent", "refusing"]


async def test_no_answer_is_none() -> None:
    """With no handler, or with none that answers."""

    async def silent(request: HttpRequest) -> None:
        return None

    assert await first_of()(REQUEST) is None
    assert await first_of(silent, silent)(REQUEST) is None


def test_a_right_method_is_not_refused() -> None:
    """None for one of the allowed, a 405 that names them for any other."""
    assert wrong_method(REQUEST, "GET", "HEAD") is None
    refusal = wrong_method(REQUEST, "POST", "PUT")
    assert refusal is not None
    assert (refusal.status, refusal.headers) == (405, (("Allow", "POST, PUT"),))
