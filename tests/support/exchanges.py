"""Recorded HTTP exchanges: read from YAML, replayed to a real client, bare and instrumented, and what the caller saw."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
import re
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import jsonschema_rs
import openai
import pydantic
from openai import _base_client
from ruamel.yaml import YAML

import tierwise
from support.canned import httpx, typed
from tierwise.core.call import UNASSIGNED

FOLDER: Final = Path(__file__).parent.parent / "exchanges"
_END: Final = object()
_SINCE: Final = re.compile(r'^since: "([\d.]+)"$', re.MULTILINE)  # read before the whole file is
_TYPES: Final[dict[str, Any]] = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list[str]}
_VARYING_HEADERS: Final = ("content-length", "idempotency-key", "x-stainless-async")


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One recorded exchange: the call, the responses in order, and what must come of it (see exchanges/README.md)."""

    name: str
    vendor: str
    source: Any
    base_url: str
    call: Mapping[str, Any]
    responses: tuple[Mapping[str, Any], ...]
    expected: Mapping[str, Any]
    client: str = "openai"
    max_retries: int = 0
    task: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """The call reads server-sent events."""
        return self.call["mode"] == "stream" or self.call["arguments"].get("stream") is True


def load(path: Path) -> Exchange:
    """Read one exchange. Raises `ValueError` that names the file, the place and what is wrong."""
    values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    for error in _schema().iter_errors(values):
        place = "/".join(map(str, error.instance_path))
        msg = f"{path.name}: {place or 'top level'}: {error.message}; exchanges/README.md describes the fields"
        raise ValueError(msg)
    for field_of_readers in ("about", "since"):
        values.pop(field_of_readers, None)
    values["responses"] = tuple(values["responses"])
    return Exchange(name=path.stem, **values)


@functools.cache
def _schema() -> Any:
    return jsonschema_rs.validator_for((FOLDER / "exchange.schema.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    """The file names, without suffix, of all exchanges that the installed client is new enough for."""
    installed = _version(openai.__version__)
    return sorted(
        path.stem
        for path in FOLDER.glob("*.yaml")
        if (since := _SINCE.search(path.read_text(encoding="utf-8"))) is None or _version(since[1]) <= installed
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


@functools.cache
def exchange(name: str) -> Exchange:
    """One exchange by file name."""
    return load(FOLDER / f"{name}.yaml")


# -- the server's side ---------------------------------------------------------------------------------------------


class Wire:
    """Plays the recorded responses, one a request, and keeps what was sent; the last one repeats."""

    def __init__(self, recorded: Exchange) -> None:
        self._responses = list(recorded.responses)
        self.requests: list[dict[str, Any]] = []
        self.pieces = 0

    def transport(self, *, asynchronous: bool) -> Any:
        """A transport of the client's own HTTP library."""
        if not asynchronous:
            return httpx.MockTransport(lambda request: self._answer(request, asynchronous=False))

        async def handler(request: Any) -> Any:
            return self._answer(request, asynchronous=True)

        return httpx.MockTransport(handler)

    def _answer(self, request: Any, *, asynchronous: bool) -> Any:
        body = json.loads(request.content)
        headers = {name: value for name, value in request.headers.items() if name not in _VARYING_HEADERS}
        self.requests.append({"method": request.method, "url": str(request.url), "headers": headers, "body": body})
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        fault = response.get("fault")
        if fault == "connect":
            raise httpx.ConnectError("connection refused", request=request)
        if fault == "timeout":
            raise httpx.ReadTimeout("timed out", request=request)
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        pieces, kind = wire_form(response, asked=asked)
        lost = httpx.ReadError("connection reset by peer", request=request) if fault == "drop" else None
        content = self._asend(pieces, lost) if asynchronous else self._send(pieces, lost)
        headers = {"content-type": kind} | {name: str(value) for name, value in response.get("headers", {}).items()}
        return httpx.Response(response["status"], headers=headers, content=content, request=request)

    def _send(self, pieces: list[bytes], lost: Exception | None) -> Iterator[bytes]:
        for piece in pieces:
            self.pieces += 1
            yield piece
        if lost is not None:
            raise lost

    async def _asend(self, pieces: list[bytes], lost: Exception | None) -> AsyncIterator[bytes]:
        for piece in self._send(pieces, lost):
            await anyio.sleep(0)
            yield piece


def wire_form(response: Mapping[str, Any], *, asked: bool) -> tuple[list[bytes], str]:
    """The body of a recorded response as network pieces, and its content type."""
    if "sse" not in response:
        text = response["text"] if "text" in response else json.dumps(response.get("body"), ensure_ascii=False)
        kind = "text/plain" if "text" in response else "application/json"
        return [text.encode()], kind
    text = response["sse"].strip("\n")
    if asked and "asked_usage" in response:
        before, done, after = text.rpartition("data: [DONE]")
        text = f"{before}{response['asked_usage'].strip()}\n\n{done}{after}" if done else f"{text}\n\n{after}"
    text += "" if response.get("unterminated") else "\n\n"
    blocks = [part for part in re.split(r"(?<=\n\n)", text) if part]
    if response.get("newline") == "crlf":
        blocks = [block.replace("\n", "\r\n") for block in blocks]
    size = response.get("piece")
    if size is None:
        return [block.encode() for block in blocks], "text/event-stream; charset=utf-8"
    whole = "".join(blocks).encode()
    return [whole[at : at + size] for at in range(0, len(whole), size)], "text/event-stream; charset=utf-8"


# -- the caller's side ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Seen:
    """Everything that a caller can tell of one call."""

    kind: str | None = None
    types: list[type] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    chunks: int = 0
    error: dict[str, Any] | None = None
    closed: bool | None = None
    arguments_kept: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    pieces: int = 0

    def add(self, value: Any) -> None:
        """Note a returned value, chunk or event."""
        self.types.append(type(value))
        self.values.append(_dump(value))
        self.texts.append(text_of(value))


def perform(recorded: Exchange, prepare: Callable[[Any], Any], *, asynchronous: bool) -> Seen:
    """Make the recorded call with a client that `prepare` has had in hand (and may have instrumented)."""
    wire, seen = Wire(recorded), Seen()
    with _no_waiting(seen.waits):
        client = prepare(_client(recorded, wire, asynchronous=asynchronous))
        if asynchronous:
            asyncio.run(_call(recorded, client, seen))
        else:  # a sync client never suspends, so the coroutine runs through in one step, without an event loop
            try:
                _call(recorded, client, seen).send(None)
            except StopIteration:
                pass
            else:
                raise RuntimeError(f"{recorded.name}: the sync client waited for an event loop")
            client.close()
    seen.requests, seen.pieces = wire.requests, wire.pieces
    return seen


def _client(recorded: Exchange, wire: Wire, *, asynchronous: bool) -> Any:
    http = openai.DefaultAsyncHttpxClient if asynchronous else openai.DefaultHttpxClient
    options: dict[str, Any] = {
        "api_key": "sk-recorded",
        "max_retries": recorded.max_retries,
        "http_client": http(transport=wire.transport(asynchronous=asynchronous)),
    }
    if recorded.client == "azure":
        azure = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
        return azure(azure_endpoint=recorded.base_url, api_version="2024-10-21", **options)
    plain = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return plain(base_url=recorded.base_url, **options)


@contextmanager
def _no_waiting(waits: list[float]) -> Iterator[None]:
    """Note how long the client would have slept between tries instead of sleeping."""

    class Replaced:
        def __init__(self, module: Any, sleep: Any) -> None:
            self._module, self.sleep = module, sleep

        def __getattr__(self, name: str) -> Any:
            return getattr(self._module, name)

    async def asleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    base: Any = _base_client
    bare = base.time, base.anyio
    base.time, base.anyio = Replaced(bare[0], waits.append), Replaced(bare[1], asleep)
    try:
        yield
    finally:
        base.time, base.anyio = bare


async def _call(recorded: Exchange, client: Any, seen: Seen) -> None:
    arguments = copy.deepcopy(dict(recorded.call["arguments"]))
    task: dict[str, Any] = {"name": UNASSIGNED, **recorded.task}
    if "parse_as" in recorded.call:
        key = "text_format" if recorded.call["api"] == "responses" else "response_format"
        arguments[key] = _model(json.dumps(recorded.call["parse_as"]))
    given = {name: value if isinstance(value, type) else copy.deepcopy(value) for name, value in arguments.items()}
    try:
        with tierwise.task(task.pop("name"), **task):
            await _use(recorded, client, arguments, seen)
    except Exception as error:
        seen.error = _describe(error)
    finally:
        seen.arguments_kept = arguments == given
        if isinstance(client, openai.AsyncOpenAI):
            await client.close()


async def _use(recorded: Exchange, client: Any, arguments: dict[str, Any], seen: Seen) -> None:
    mode = recorded.call["mode"]
    resource = functools.reduce(getattr, recorded.call["api"].split("."), client)
    if recorded.call["api"] == "chat.completions" and mode in ("parse", "stream"):
        resource = typed(client)
    if mode == "stream":
        async with _entered(resource.stream(**arguments)) as events:
            await _read(events, recorded.call.get("read"), seen)
            final = "get_final_response" if recorded.call["api"] == "responses" else "get_final_completion"
            seen.add(await _settled(getattr(events, final)()))
    elif mode == "raw":
        raw = await _settled(resource.with_raw_response.create(**arguments))
        await _parsed(recorded, raw, seen)
    elif mode == "streaming_response":
        async with _entered(resource.with_streaming_response.create(**arguments)) as raw:
            await _parsed(recorded, raw, seen)
    else:
        method = resource.parse if mode == "parse" else resource.create
        await _take(recorded, await _settled(method(**arguments)), seen)


async def _parsed(recorded: Exchange, raw: Any, seen: Seen) -> None:
    seen.types.append(type(raw))
    seen.values.append((raw.status_code, raw.headers.get("x-request-id"), raw.http_response.is_closed))
    await _take(recorded, await _settled(raw.parse()), seen)


async def _take(recorded: Exchange, value: Any, seen: Seen) -> None:
    if not recorded.streams:
        seen.kind = type(value).__name__
        seen.add(value)
        return
    seen.kind = type(value).__name__.removeprefix("Async")
    seen.types.append(type(value))
    seen.values.append(None)
    try:
        await _read(value, recorded.call.get("read"), seen)
    finally:
        seen.closed = value.response.is_closed


async def _read(stream: Any, count: int | None, seen: Seen) -> None:
    """Read a stream to its end, or `count` chunks of it and close it then."""
    chunks = aiter(stream) if hasattr(stream, "__aiter__") else iter(stream)
    while count is None or seen.chunks < count:
        chunk = await anext(chunks, _END) if hasattr(chunks, "__anext__") else next(chunks, _END)
        if chunk is _END:
            return
        seen.add(chunk)
        seen.chunks += 1
    await _settled(stream.close())


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def _entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


@functools.cache
def _model(described: str) -> type[pydantic.BaseModel]:
    """The same class every time: it is a part of the parsed answer's own type."""
    ((name, fields),) = json.loads(described).items()
    made: Any = {key: (_TYPES[kind], ...) for key, kind in fields.items()}
    model: type[pydantic.BaseModel] = pydantic.create_model(name, **made)
    return model


def _dump(value: Any) -> Any:
    """A value with everything that the client kept of it: extras, which fields were set, the request's id."""
    if isinstance(value, pydantic.BaseModel):
        whole = value.model_dump(warnings=False), value.model_dump(warnings=False, exclude_unset=True)
        return *whole, getattr(value, "_request_id", None)
    if hasattr(value, "__dict__"):  # the helpers' events are plain objects
        return {name: _dump(part) for name, part in vars(value).items() if not name.startswith("_")}
    return value


def _describe(error: Exception) -> dict[str, Any]:
    completion = getattr(error, "completion", None)
    response = getattr(error, "response", None)
    end = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "type": type(error).__name__,
        "message": str(error),
        "arguments": repr(error.args),
        "status": getattr(error, "status_code", None),
        "body": getattr(error, "body", None),
        "code": getattr(error, "code", None),
        "request_id": getattr(error, "request_id", None),
        "url": None if response is None else str(response.request.url),
        "completion": None if completion is None else _dump(completion),
        "cause": repr(error.__cause__),
        "raised_in": f"{Path(end.filename).name}:{end.name}",
    }


def text_of(value: Any) -> str:
    """The text in a response, chunk or event: what an application would print."""
    if isinstance(value, str):
        return value
    if getattr(value, "type", None) in ("response.output_text.delta", "content.delta"):
        return str(value.delta)
    if getattr(value, "object", None) == "response":
        return str(value.output_text)
    try:
        (choice, *_) = value.choices
    except (AttributeError, TypeError, ValueError):
        return ""
    said = getattr(choice, "delta", None) or getattr(choice, "message", None) or choice
    return str(getattr(said, "content", None) or getattr(said, "text", None) or "")
