"""Where evidence is read from: the store of this machine, or a Prometheus-compatible server; options and opening."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import click

from tierwise.core.errors import ConfigError, EvidenceError, TierwiseError
from tierwise.surfaces.cli.common import nothing_recorded, open_store

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.core.columns import TaskEvidence
    from tierwise.evidence.prometheus import PrometheusSource
    from tierwise.evidence.prometheus_http import Access
    from tierwise.evidence.prometheus_names import Names

F = TypeVar("F", bound=Callable[..., Any])

URL_VARIABLE: Final = "TIERWISE_PROMETHEUS_URL"
TOKEN_VARIABLE: Final = "TIERWISE_PROMETHEUS_TOKEN"  # noqa: S105 - a name
PASSWORD_VARIABLE: Final = "TIERWISE_PROMETHEUS_PASSWORD"  # noqa: S105 - a name
_SECRET_BYTES: Final = 64 << 10


class Evidence(Protocol):
    """What a plan reads from: the methods that all sources share."""

    def tasks(self) -> list[str]:
        """The tasks that have evidence, by name."""
        ...

    def evidence_by_task(
        self, since: int | None = None, until: int | None = None, tasks: Sequence[str] | None = None
    ) -> Iterator[TaskEvidence]:
        """The evidence of [since, until), Unix seconds, a task at a time by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The options of `source_options` as given."""

    source: str | None = None
    url: str | None = None
    dialect: Literal["auto", "prometheus", "victoriametrics"] = "auto"
    header: tuple[str, ...] = ()
    token_file: str | None = None
    user: str | None = None
    password_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tenant: str | None = None
    match: tuple[str, ...] = ()
    timeout: float = 60.0
    raw: bool = False

    @property
    def is_server(self) -> bool:
        """Whether evidence comes from a server: by name, or because one is given."""
        return self.source == "prometheus" or (self.source is None and self.url is not None)


_FILE: Final = click.Path(dir_okay=False)
_OPTIONS: Final = (
    click.option(
        "--source", type=click.Choice(["store", "prometheus"]), help="Where evidence is [default: store; with --url: prometheus]."
    ),
    click.option(
        "--url", metavar="URL", help=f"Prometheus-compatible server, without /api/v1 [default: {URL_VARIABLE}]."
    ),
    click.option(
        "--dialect", type=click.Choice(["auto", "prometheus", "victoriametrics"]), default="auto", show_default=True,
        help="How the server computes increases; auto asks it.",
    ),
    click.option("--header", multiple=True, metavar="NAME=FILE", help="A header whose value stands in FILE; may be repeated."),
    click.option("--token-file", type=_FILE, metavar="FILE", help=f"Bearer token [default: {TOKEN_VARIABLE}]."),
    click.option("--user", metavar="NAME", help=f"Basic authentication; its password is {PASSWORD_VARIABLE} or:"),
    click.option("--password-file", type=_FILE, metavar="FILE", help="The password of --user."),
    click.option("--ca", type=_FILE, metavar="FILE", help="Certificates to trust (PEM)."),
    click.option("--cert", type=_FILE, metavar="FILE", help="Our own certificate (PEM)."),
    click.option("--key", type=_FILE, metavar="FILE", help="Its key (PEM)."),
    click.option("--tenant", metavar="NAME", help="X-Scope-OrgID, for Mimir."),
    click.option("--match", multiple=True, metavar="LABEL=VALUE", help="Only series with this label; may be repeated."),
    click.option(
        "--timeout", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="For one answer, seconds."
    ),
    click.option("--raw", is_flag=True, help="Read counters even where recording rules have summed them."),
)  # fmt: skip
_NAMES: Final = tuple(Source.__dataclass_fields__)


def source_options(function: F) -> F:
    """Add `--source`, `--url` and what reaching a server takes (argument `source`: a `Source`)."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        chosen = Source(**{name: options.pop(name) for name in _NAMES})
        return function(*args, source=chosen, **options)

    made: Any = wrapped
    for option in reversed(_OPTIONS):
        made = option(made)
    return made  # type: ignore[no-any-return]


@contextmanager
def reading(settings: Settings, source: Source | None) -> Iterator[Evidence]:
    """Open the place where evidence is read from, and close it afterwards.

    Raises:
        TierwiseError: it cannot be opened; the message says what to do.
    """
    if source is None or not source.is_server:
        if source is not None and source.url:
            raise ConfigError("--url names a server, --source the store; leave one of them out")
        with open_store(settings) as store:
            yield store
        return
    with open_server(source) as server:
        yield server


def open_server(source: Source) -> PrometheusSource:
    """The server that the options and the environment name; nothing is sent yet.

    Raises:
        ConfigError: they are incomplete or a file of theirs cannot be read.
    """
    from tierwise.evidence.prometheus import PrometheusSource

    matchers = [_pair(text, "--match", "environment=production") for text in source.match]
    return PrometheusSource(
        access_of(source),
        names(),
        dialect=source.dialect,
        recorded="never" if source.raw else "auto",
        matchers=matchers,
    )


def access_of(source: Source) -> Access:
    """How the server is reached.

    Raises:
        ConfigError: see `open_server`.
    """
    from tierwise.evidence.prometheus_http import Access

    url = source.url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigError(f"--source prometheus needs an address: pass --url http://HOST:9090, or set {URL_VARIABLE}")
    token = _secret(source.token_file, "--token-file") or os.environ.get(TOKEN_VARIABLE) or None
    basic = None
    if source.user is not None:
        password = _secret(source.password_file, "--password-file") or os.environ.get(PASSWORD_VARIABLE)
        if password is None:
            raise ConfigError(f"--user needs a password: pass --password-file FILE, or set {PASSWORD_VARIABLE}")
        if source.token_file:
            raise ConfigError("--user and --token-file are two ways to say who asks; pass one of them")
        basic, token = (source.user, password), None
    headers = {}
    for text in source.header:
        name, path = _pair(text, "--header", "X-Api-Key=/run/secrets/key")
        headers[name] = _secret(path, "--header") or ""
    for option, pem in (("--ca", source.ca), ("--cert", source.cert), ("--key", source.key)):
        if pem is not None and not Path(pem).is_file():
            raise ConfigError(f"{option}: there is no file {pem}")
    return Access(
        url=url,
        headers=headers,
        bearer=token,
        basic=basic,
        tenant=source.tenant,
        ca_file=source.ca,
        client_certificate=source.cert,
        client_key=source.key,
        timeout_s=source.timeout,
    )


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name.strip():
        raise ConfigError(f"{option} wants NAME=VALUE, for example {option} {example}")
    return name.strip(), value


def _secret(path: str | None, option: str) -> str | None:
    """The text of a file without the white space around it."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            text = file.read(_SECRET_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{option}: {path} cannot be read ({why})") from None
    if not text:
        raise ConfigError(f"{option}: {path} is empty")
    return text


def nothing_found(settings: Settings, source: Source | None) -> TierwiseError:
    """The error of a place that holds nothing in the window asked for."""
    if source is None or not source.is_server:
        return nothing_recorded(settings)
    return EvidenceError(
        "the server has no calls in the hours of this window that have ended and settled (ten minutes after their end); "
        "wait for the next hour, or widen --since (`--since all`)"
    )


def notes_of(opened: Evidence) -> tuple[str, ...]:
    """What a source says about its last reading; the store has nothing to say."""
    return tuple(getattr(opened, "notes", ()))


def names() -> Names:
    """The metrics and attributes that evidence is made of, as they are emitted."""
    from tierwise.evidence.prometheus_names import Instrument, Names
    from tierwise.telemetry import semconv as sc

    metrics = {
        "calls": sc.CALLS,
        "priced": sc.CALL_PRICED,
        "cost": sc.CALL_COST,
        "cost_squared": sc.CALL_COST_SQUARED,
        "retries": sc.CALL_RETRIES,
        "retried": sc.CALL_RETRIED,
        "tokens": sc.CALL_TOKENS,
        "check_score": sc.CHECK_SCORE,
        "check_count": sc.CHECK_COUNT,
        "feedback": sc.FEEDBACK,
        "runs": sc.RUN_COUNT,
        "runs_escalated": sc.RUN_ESCALATED,
        "runs_priced": sc.RUN_PRICED,
        "runs_cost": sc.RUN_COST,
        "runs_cost_squared": sc.RUN_COST_SQUARED,
        "duration": sc.CALL_DURATION,
        "first_chunk": sc.CALL_TIME_TO_FIRST_CHUNK,
    }
    attributes = {
        "task": sc.TASK,
        "candidate": sc.CANDIDATE,
        "epoch": sc.EPOCH,
        "arm": sc.ARM,
        "rung": sc.RUNG,
        "grade": sc.GRADE,
        "outcome": sc.OUTCOME,
        "json_form": sc.JSON_FORM,
        "member": sc.RUN_MEMBER,
        "token_kind": sc.TOKEN_KIND,
        "accepted": sc.FEEDBACK_ACCEPTED,
        "run_success": sc.RUN_SUCCESS,
    }
    return Names(
        metrics={role: Instrument(name=one.name, kind=one.kind, unit=one.unit) for role, one in metrics.items()},
        attributes=attributes,
    )
