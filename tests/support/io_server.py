"""A provider on localhost in a process of its own, so that its work is not the measured process's: `python -m support.io_server`.

The model's name says how it answers. It prints its port and ends when its standard input does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tierwise.testing import chat_body, chat_chunks

STATUS = {"fails-500": 500, "fails-429": 429, "fails-400": 400}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        if model == "cuts":
            self.close_connection = True
            return
        status, kind = STATUS.get(model, 200), "application/json"
        data = json.dumps(chat_body("Hello.", model=model) if status == 200 else _error(model)).encode()
        if status == 200 and body.get("stream"):
            kind = "text/event-stream"
            events = [json.dumps(event) for event in chat_chunks(["Hel", "lo", "."])]
            data = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
        announced = len(data)
        if model == "breaks-off":
            data, self.close_connection = data[: announced // 2], True
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(announced))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


def _error(model: str) -> dict[str, object]:
    return {"error": {"message": f"{model}, by request", "type": "test", "code": None, "param": None}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def provider() -> Iterator[str]:
    """Runs the server; gives its base URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "support.io_server"],
        cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.communicate("")


def main() -> None:
    """Serve until the standard input ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
