"""The application: addresses of the live pages, and what each answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route as Address
from starlette.types import ASGIApp

from tierwise.advisor import can_roll_back
from tierwise.core.errors import EvidenceError, TierwiseError
from tierwise.core.outcome import OUTCOMES
from tierwise.routing import read_table
from tierwise.surfaces.report.render import MEASURES, page
from tierwise.surfaces.report.text import clean
from tierwise.surfaces.serve import calls
from tierwise.surfaces.serve.changes import Done, Refused, approve, go_back, offer_of
from tierwise.surfaces.serve.guard import Guard, form_of, token_fits
from tierwise.surfaces.serve.source import Source

_log = logging.getLogger("tierwise.serve")
_TASK_LINES: Final = 10
_DONE: Final = {
    "applied": "The recommended route is in force.",
    "trial": 'The trial has begun: a quarter of the task’s calls with model="auto" go to its model.',
    "back": "The task is back on the route before.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What templates know of the server: which page this is, and the state at which it was made."""

    page: str
    state: str = ""

    def task_url(self, name: str) -> str:
        """The page of a task."""
        return "/task?" + urlencode({"name": name}, errors="surrogatepass")


def make_app(source: Source, *, token: str, hosts: Iterable[str]) -> ASGIApp:
    """The application; `hosts` are the Host headers that are answered, `token` is what a change must bring."""
    pages = _Pages(source, token)
    app = Starlette(
        routes=[
            Address("/", pages.report, methods=["GET"]),
            Address("/task", pages.task, methods=["GET"]),
            Address("/calls", pages.calls, methods=["GET"]),
            Address("/call", pages.call, methods=["GET"]),
            Address("/state", pages.state, methods=["GET"]),
            Address("/approve", pages.approve, methods=["POST"]),
            Address("/rollback", pages.rollback, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _http_problem,
            TierwiseError: _our_problem,
            Exception: _fault,
        },
    )
    return Guard(app, hosts=hosts)


class _Pages:
    def __init__(self, source: Source, token: str) -> None:
        self._source, self._token = source, token

    def report(self, request: Request) -> Response:
        view = self._source.see().view
        return _html("report.html.j2", view=view, measures=MEASURES, data=view.charts_json, live=self._live("report"))

    def task(self, request: Request) -> Response:
        name = _query(request, "name")
        seen = self._seen(name)
        assert seen.found is not None  # noqa: S101 - a task is known only where something is
        item = seen.found.recommendations[0]
        with self._store() as store:
            latest = calls.page_of(store, calls.Filter(task=name), rows=_TASK_LINES)
        return _html(
            "task_page.html.j2",
            view=seen.view,
            task=seen.view.tasks[0],
            offer=offer_of(item, read_table(self._source.settings.routes_path).routes.get(name)),
            can_go_back=can_roll_back(name, seen.found.history, seen.found.table_version),
            version=seen.found.table_version,
            latest=latest,
            calls_query=calls.Filter(task=name).query(),
            done=_DONE.get(request.query_params.get("done", ""), ""),
            data=seen.view.charts_json,
            live=self._live("task"),
        )

    def calls(self, request: Request) -> Response:
        wanted = calls.Filter.of(request.query_params)
        with self._store() as store:
            found = calls.page_of(store, wanted, request.query_params.get("before", ""))
            tasks = store.tasks()
        return _html(
            "calls.html.j2",
            page=found,
            wanted=wanted,
            tasks=tasks[:1000],
            models=sorted(self._source.models() or {line.model for line in found.lines})[:1000],
            outcomes=OUTCOMES,
            arms=calls.ARMS,
            newest="before" not in request.query_params,
            query=wanted.query(),
            live=self._live("calls"),
        )

    def call(self, request: Request) -> Response:
        at, number = _whole(request, "at"), _whole(request, "id")
        with self._store() as store:
            row = calls.find(store, at, number)
        if row is None:
            raise HTTPException(404, "there is no such call (any more): old rows are pruned")
        return _html(
            "call.html.j2",
            row=row,
            name=clean(row.task),
            groups=calls.facts(row),
            tries=calls.tries(row),
            checks=calls.checks(row),
            live=Live(page="call"),
        )

    def state(self, request: Request) -> Response:
        return PlainTextResponse(self._source.state())

    async def approve(self, request: Request) -> Response:
        return await self._change(request, approve)

    async def rollback(self, request: Request) -> Response:
        return await self._change(request, go_back)

    async def _change(self, request: Request, make: Callable[[Source, str, dict[str, str]], Done]) -> Response:
        fields = await form_of(request)
        if fields is None or "task" not in fields:
            raise HTTPException(400, "the form is incomplete, too large or not a form")
        if not token_fits(self._token, fields.get("token", "")):
            raise HTTPException(403, "the token is not the one that `tierwise serve` printed when it started")
        done = await run_in_threadpool(make, self._source, fields["task"], fields)
        _log.info("%s", done.words)
        query = urlencode({"name": fields["task"], "done": done.what}, errors="surrogatepass")
        return RedirectResponse(f"/task?{query}", status_code=303)

    def _live(self, name: str) -> Live:
        return Live(page=name, state=self._source.state())

    def _seen(self, name: str) -> Any:
        try:
            return self._source.see(name)
        except EvidenceError:
            raise HTTPException(404, f"no task {clean(name)!r}: nothing recorded, no policy, no route") from None

    def _store(self) -> Any:
        from tierwise.surfaces.cli.common import open_store

        return open_store(self._source.settings)


def _html(template: str, *, status: int = 200, data: str | None = None, live: Live, **values: Any) -> HTMLResponse:
    return HTMLResponse(page(template, data=data, live=live, **values), status_code=status)


def _problem(status: int, words: str) -> Response:
    return _html(
        "problem.html.j2", status=status, code=status, words=clean(words, longest=2000), live=Live(page="problem")
    )


def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    words = {404: "There is no such page.", 405: "This address does not take that."}
    detail = error.detail if error.detail not in ("Not Found", "Method Not Allowed") else words[error.status_code]
    return _problem(error.status_code, detail)


def _our_problem(request: Request, error: Exception) -> Response:
    changing = request.method == "POST"
    return _problem(409 if isinstance(error, Refused) or changing else 503, str(error))


def _fault(_: Request, error: Exception) -> Response:
    return _problem(
        500, f"a fault inside tierwise ({type(error).__name__}); the terminal of `tierwise serve` says more"
    )


def _query(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if not value:
        raise HTTPException(400, f"the address lacks {name}=")
    return value


def _whole(request: Request, name: str) -> int:
    value = _query(request, name)
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) < 2**63 - 1):
        raise HTTPException(400, f"{name}= must be a whole number")
    return int(value)
