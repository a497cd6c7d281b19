"""What hostile bytes are fed to: one function for each reader, raising nothing but what it says it raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio

from support.canned import ASK, Reply, httpx, openai, sync_client
from tierwise.config.loader import check_text
from tierwise.core.errors import EvidenceError, ReceiptError, RouteError
from tierwise.core.jsonform import read_json
from tierwise.core.outcome import Choice, Expectation, judge
from tierwise.core.receipt import read_receipt
from tierwise.evidence.prometheus_api import Api
from tierwise.evidence.prometheus_http import Access, Http
from tierwise.instrument.parsing import compile_schema, is_json, parse_json
from tierwise.routing.routefile import table_from_json
from tierwise.surfaces.demo.gateway import Gateway
from tierwise.testing import instrument_in_memory

KEYS: Final = (b"k" * 32,)
_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


_STREAMED: Final[dict[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}
"""Usage is asked for, so that none is hidden from a caller who did not."""


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _observed(reply: Reply, *, stream: bool) -> None:
    """The same answer to a bare and to an observed client: the application gets the same, nothing of ours fails."""

    def ask(client: openai.OpenAI) -> tuple[str, object]:
        try:
            got = client.chat.completions.create(**ASK, **(_STREAMED if stream else {}))
            return "value", repr(list(got) if stream else got)
        except Exception as error:
            return "error", (type(error), str(error))

    bare, _ = sync_client(reply)
    watched, _ = sync_client(reply)
    recorder = instrument_in_memory(watched)
    with bare, watched:
        assert ask(watched) == ask(bare)
    assert recorder.errors == []
    assert len(recorder.calls) == 1


def response(data: bytes) -> None:
    """The body of an answer."""
    _observed(Reply(body=data, headers={"content-type": "application/json"}), stream=False)


def stream(data: bytes) -> None:
    """The bytes of a stream of events."""
    _observed(Reply(body=data, headers={"content-type": "text/event-stream"}), stream=True)


def json_form(data: bytes) -> None:
    """The text of a model that is to be JSON."""
    text = _text(data)
    for schema in (None, compile_schema(_SCHEMA)):
        read_json(text, schema=schema, parse_json=parse_json)
    is_json(text)
    judge([Choice(text=text, finish_reason="stop")], Expectation(expects_json=True), parse_json=parse_json)


def policy(data: bytes) -> None:
    """A policy file, price tables included."""
    check_text(_text(data))


def routes(data: bytes) -> None:
    """A route file."""
    with suppress(RouteError):
        table_from_json(_text(data), where="routes.json")


def receipt(data: bytes) -> None:
    """A receipt, where there is a key and where there is none."""
    for keys in ((), KEYS):
        with suppress(ReceiptError):
            read_receipt(_text(data), keys=keys, now_s=1.79e9)
            assert keys == (), "a receipt was made without the key"


_QUESTIONS: Final[tuple[Callable[[Api], object], ...]] = (
    lambda api: api.instant("up"),
    lambda api: list(api.grid("up", 0, 7200, 3600)),
    lambda api: api.label_values("task", ["up"], 0, 10),
    lambda api: api.exists(["up"], 0, 10),
    lambda api: api.clock_ahead_s(),
    lambda api: api.dialect(),
    lambda api: api.retention_s("prometheus"),
    lambda api: api.retention_s("victoriametrics"),
)


class _Said(Http):
    """A server that says one thing."""

    data = b""

    def _ask(self, method: str, path: str, query: str, body: bytes | None) -> tuple[bytes, dict[str, str]]:
        return self.data, {}


def promql(data: bytes) -> None:
    """The answer of a Prometheus server."""
    http = _Said(Access(url="http://127.0.0.1:9"))
    http.data = data
    for ask in _QUESTIONS:
        with suppress(EvidenceError):
            ask(Api(http))


def prices(data: bytes) -> None:
    """A table of prices in a policy file."""
    check_text("prices:\n  m: " + _text(data).replace("\n", "\n    ") + "\n")


def gateway(data: bytes) -> None:
    """A request to the simulated gateway."""

    async def ask() -> int:
        transport = httpx.ASGITransport(app=Gateway(seed=1, scale=1e9).app())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            headers = {"authorization": "Bearer k", "content-type": "application/json"}
            return int((await client.post("/v1/chat/completions", content=data, headers=headers)).status_code)

    status = anyio.run(ask)
    assert status < 500 or status == 503


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: one for one in (response, stream, json_form, policy, prices, routes, receipt, promql, gateway)
}
CORPUS: Final = Path(__file__).parents[1] / "fuzz" / "corpus"


def corpus(target: str) -> list[bytes]:
    """The kept inputs of a target: one JSON list of texts, in which a byte is a character (Latin-1)."""
    return [text.encode("latin-1") for text in json.loads((CORPUS / f"{target}.json").read_text(encoding="utf-8"))]
