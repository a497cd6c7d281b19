"""A server on localhost with OpenAI's chat completions and responses: text, JSON, one tool call, streams, faults first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tierwise.testing import chat_body, chat_chunks

MODEL = "gpt-5-mini-2025-08-07"
TEXT = "Hello."
CITY: dict[str, Any] = {"city": "Paris", "celsius": 21}
"""The answer to whoever asks for JSON, and the arguments of a tool that takes them."""
ARGUMENTS = {"weather": {"city": "Paris"}, "final_result": CITY, "City": CITY}
"""The arguments of the tools that are called, by name."""
INPUT_TOKENS, OUTPUT_TOKENS = 12, 5
"""Of every answer."""


@dataclass
class ModelServer:
    """Where the server is, what it was asked, and the statuses that it answers with before it answers well."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)


def _tool(body: dict[str, Any]) -> str | None:
    """The tool to call: the first that is known, once in a conversation."""
    turns = body.get("messages") or body.get("input") or ()
    if any("tool" in (turn.get("role") or turn.get("type") or "") for turn in turns if isinstance(turn, dict)):
        return None
    if any(turn.get("type") == "function_call_output" for turn in turns if isinstance(turn, dict)):
        return None
    names = [(tool.get("function") or tool).get("name") for tool in body.get("tools") or ()]
    return next((name for name in names if name in ARGUMENTS), None)


def _text(body: dict[str, Any]) -> str:
    form = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    return json.dumps(CITY) if str(form.get("type", "")).startswith("json") else TEXT


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    tool = _tool(body)
    if tool is None:
        return chat_body(_text(body), model=MODEL)
    call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": json.dumps(ARGUMENTS[tool])}}
    return chat_body(None, model=MODEL, finish_reason="tool_calls", message={"tool_calls": [call]})


def _chat_events(body: dict[str, Any]) -> Iterator[str]:
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    tool = _tool(body)
    text = _text(body)
    chunks = chat_chunks([text[:3], text[3:]], usage=usage)
    if tool is not None:
        arguments = json.dumps(ARGUMENTS[tool])
        chunks = chat_chunks(["", ""], finish_reason="tool_calls", usage=usage)
        function = {"name": tool, "arguments": arguments[:5]}
        first = {"index": 0, "id": "call_1", "type": "function", "function": function}
        chunks[1]["choices"][0]["delta"] = {"tool_calls": [first]}
        chunks[2]["choices"][0]["delta"] = {"tool_calls": [{"index": 0, "function": {"arguments": arguments[5:]}}]}
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _response(body: dict[str, Any]) -> dict[str, Any]:
    tool = _tool(body)
    item: dict[str, Any]
    if tool is None:
        part = {"type": "output_text", "text": _text(body), "annotations": [], "logprobs": []}
        item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    else:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool, "status": "completed"}
        item["arguments"] = json.dumps(ARGUMENTS[tool])
    usage = {
        "input_tokens": INPUT_TOKENS, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 17,
    }  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": MODEL, "output": [item],
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": usage,
    }  # fmt: skip


def _response_events(body: dict[str, Any]) -> Iterator[str]:
    done = _response(body)
    (item,) = done["output"]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**done, "status": "in_progress", "output": [], "usage": None}}
    ]
    if item["type"] == "message":
        text = item["content"][0]["text"]
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        opened = {**item, "status": "in_progress", "content": []}
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": opened},
            {"type": "response.content_part.added", **at, "part": empty},
            {"type": "response.output_text.delta", **at, "delta": text[:3], "logprobs": []},
            {"type": "response.output_text.delta", **at, "delta": text[3:], "logprobs": []},
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": item["content"][0]},
        ]
    else:
        at = {"item_id": "fc_1", "output_index": 0}
        opened = {**item, "status": "in_progress", "arguments": ""}
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": opened},
            {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]},
            {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]},
        ]
    events += [
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]
    for number, event in enumerate(events):
        yield f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n"


def _handler(state: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.bodies.append(body)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            if state.faults:
                self._answer(state.faults.pop(0), json.dumps({"error": {"message": "not now"}}), "application/json")
                return
            chat = self.path.endswith("/chat/completions")
            if body.get("stream"):
                events = _chat_events(body) if chat else _response_events(body)
                self._answer(200, "".join(events), "text/event-stream")
            else:
                self._answer(200, json.dumps(_chat(body) if chat else _response(body)), "application/json")

        def _answer(self, status: int, text: str, kind: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.send_header("x-request-id", "req_1")
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """Runs a server; ends it afterwards."""
    state = ModelServer()
    server = _Server(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
