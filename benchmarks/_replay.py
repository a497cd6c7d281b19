"""A local gateway that answers as recorded: successes, failures of several kinds, and costs as tokens."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tierwise.advisor.outcomes import Outcome, TaskOutcomes

USD_PER_TOKEN = 1e-9
"""So small that a recorded cost is a whole number of tokens to within a millionth or so."""
RIGHT, WRONG, PLAUSIBLE = '{"answer": "right"}', '{"answer": "wrong"}', '{"answer": "plausible"}'
FAILURES = (
    ("I cannot tell.", "stop"),
    (f"```json\n{RIGHT}\n```", "stop"),
    ('{"answer": "ri', "length"),
    ("", "stop"),
    (WRONG, "stop"),
)
"""Text and finish reason of the answers that a ladder can tell from good ones."""


def is_told(name: str, model: str, place: int, detection: float) -> bool:
    """Whether a failure at a task's prompt is one that a ladder can tell; a draw that is always the same."""
    return random.Random(f"{name}/{model}/{place}").random() < detection


def answer_of(one: Outcome, name: str, model: str, place: int, detection: float) -> tuple[str, str]:
    """Text and finish reason that stand for a recorded outcome."""
    if one.success:
        return RIGHT, "stop"
    kind = random.Random(f"{model}/{place}/{name}").choice(FAILURES)
    return kind if is_told(name, model, place, detection) else (PLAUSIBLE, "stop")


def bodies_of(
    tasks: Mapping[str, TaskOutcomes], models: Sequence[str], detection: float
) -> dict[tuple[str, str], bytes]:
    """The response body for each model and prompt: those of a task are named `NAME/0`, `NAME/1` and so on."""
    found = {}
    for name, task in tasks.items():
        for model in set(models) & set(task.models):
            for place, one in enumerate(task.outcomes[model]):
                text, reason = answer_of(one, name, model, place, detection)
                tokens = round(one.cost_usd / USD_PER_TOKEN)
                usage = {
                    "prompt_tokens": tokens // 5,
                    "completion_tokens": tokens - tokens // 5,
                    "total_tokens": tokens,
                }
                message = {"role": "assistant", "content": text}
                document = {
                    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "usage": usage,
                    "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
                }  # fmt: skip
                found[model, f"{name}/{place}"] = json.dumps(document).encode()
    return found


@contextmanager
def gateway(bodies: dict[tuple[str, str], bytes]) -> Iterator[tuple[str, Counter[str]]]:
    """Serves the recorded outcomes; gives the base URL and how often each model was asked."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = bodies[request["model"], request["messages"][-1]["content"]]
            with lock:
                asked[request["model"]] += 1
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
