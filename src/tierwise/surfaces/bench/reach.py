"""One cheap request per model before a bench: a wrong key, URL or model name is said at once and in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tierwise.core.errors import ConfigError
from tierwise.surfaces.bench.runner import Options
from tierwise.surfaces.cli.common import clean

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

_SHOWN_CHARS = 300


def check_models(client: OpenAI, options: Options, *, base_url: str, key_name: str) -> None:
    """Ask every model for one word, with the parameters of the bench, through a client that is not instrumented.

    Passing faults (429 and 5xx) are let through: the bench measures them.

    Raises:
        ConfigError: the server cannot be reached, refuses the key, does not know a model or refuses the parameters; the
            message names every model that failed.
    """
    problems = [
        problem for model in options.models if (problem := _problem(client, model, options, base_url, key_name))
    ]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _problem(client: OpenAI, model: str, options: Options, base_url: str, key_name: str) -> str | None:
    from openai import APIConnectionError, APIError, APIStatusError

    request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Reply with the word: ok"}]}
    if options.temperature is not None:
        request["temperature"] = options.temperature
    if options.max_tokens is not None:
        request["max_tokens"] = options.max_tokens
    try:
        client.chat.completions.create(**request)
    except APIConnectionError as error:
        cause = clean(str(error.__cause__ or error))[:_SHOWN_CHARS]
        return f"cannot reach {base_url}: {cause}; check --base-url and that the server is running"
    except APIStatusError as error:
        return _refusal(error, model, base_url, key_name)
    except (APIError, ValueError) as error:
        return f"{base_url} does not answer like an OpenAI-compatible API: {clean(str(error))[:_SHOWN_CHARS]}"
    return None


def _refusal(error: APIStatusError, model: str, base_url: str, key_name: str) -> str | None:
    status, said = error.status_code, clean(_said(error))[:_SHOWN_CHARS]
    if status in (401, 403):
        return f"{base_url} refuses the key in {key_name} (HTTP {status}): {said}; set {key_name} to a valid key"
    if status == 404:
        return (
            f"{base_url} does not know model {model!r} (HTTP 404): {said}; check the name in --models, "
            "and that --base-url ends where the API begins, as in https://host/v1"
        )
    if status == 429 or status >= 500:
        return None
    advice = "check --models, and leave parameters out with --temperature none or --max-tokens none"
    return f"{base_url} refuses a request to model {model!r} (HTTP {status}): {said}; {advice}"


def _said(error: APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        found = body.get("message") or body.get("error") or body.get("detail")
        if isinstance(found, str):
            return found.rstrip(".")
    return error.message.rstrip(".")


def unique(models: Sequence[str]) -> tuple[str, ...]:
    """Model names without blanks and duplicates, in order."""
    return tuple(dict.fromkeys(name.strip() for name in models if name.strip()))
