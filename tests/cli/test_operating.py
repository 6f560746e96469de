"""What an operator reads of the process: metrics, logs, and who is connected."""

import json
from contextlib import suppress

import httpx
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from tests.cli.process import gateway


async def test_an_operator_sees_a_connection_from_its_start_to_its_end() -> None:
    """In /metrics, in the API, and in a line of JSON that says whose it was."""
    async with gateway("--log-format", "json") as running:
        headers = {"authorization": f"Bearer {await running.token()}"}
        # trio-websocket leaves its socket open when the server closes first.
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        async with (
            httpx.AsyncClient(base_url=running.url, headers=headers) as operator,
            stream,
            trio.open_nursery() as nursery,
        ):
            path = "/?user=ann&token=eyJ.eyJ.x"
            client = await wrap_client_stream(nursery, stream, "127.0.0.1", path)
            id = json.loads(await client.get_message())["connection"]
            found = await operator.get("/metrics")
            assert "text/plain; version=0.0.4; charset=utf-8" == found.headers["content-type"]
            lines = found.text.splitlines()
            assert 'trio_gateway_route_connections{route="/",state="open"} 1.0' in lines
            assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
            page = (await operator.get("/api/connections?user=ann")).json()
            assert [id] == [entry["id"] for entry in page["connections"]]
            assert "127.0.0.1" == page["connections"][0]["address"]
            gone = await operator.delete(f"/api/connections/{id}?code=1008&reason=bye")
            assert 200 == gone.status_code
            with trio.fail_after(10), suppress(ConnectionClosed):
                while True:
                    await client.get_message()
            assert client.closed is not None
            assert (1008, "bye") == (client.closed.code, client.closed.reason)
            found = await operator.get("/metrics")
            assert 'trio_gateway_closes_total{code="1008"} 1.0' in found.text.splitlines()
        assert 0 == await running.terminate()
        records = [json.loads(line) for line in await running.err.rest()]
    (record,) = [record for record in records if "1008" in record["event"]]
    about = {"client": "127.0.0.1", "route": "/", "connection": id, "user": "ann"}
    assert about == {name: record.get(name) for name in about}
    assert "eyJ" not in json.dumps(records)
