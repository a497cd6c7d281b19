"""Routes as a configuration of LiteLLM's proxy, or of its Router: a model group for each task, candidate and tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tierwise.core.errors import ConfigError
from tierwise.core.policy import ModelSpec
from tierwise.core.records import dataclass
from tierwise.surfaces.export.formats import dumped
from tierwise.surfaces.export.view import ANY, Routes

AUTO: Final = "auto"
PROVIDERS: Final = {
    "anthropic": "anthropic", "azure": "azure", "bedrock": "bedrock", "cerebras": "cerebras", "cohere": "cohere",
    "databricks": "databricks", "deepinfra": "deepinfra", "deepseek": "deepseek", "fireworks": "fireworks_ai",
    "fireworks_ai": "fireworks_ai", "gemini": "gemini", "google": "gemini", "groq": "groq", "huggingface": "huggingface",
    "mistral": "mistral", "nvidia_nim": "nvidia_nim", "ollama": "ollama", "openai": "openai", "openrouter": "openrouter",
    "perplexity": "perplexity", "sambanova": "sambanova", "together": "together_ai", "together_ai": "together_ai",
    "vertex_ai": "vertex_ai", "xai": "xai",
}  # fmt: skip
"""Names of providers that upstreams are likely to have, with LiteLLM's own."""
_FAMILIES: Final = (
    (("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-"), "openai"), (("claude-",), "anthropic"),
    (("gemini-",), "gemini"), (("mistral-", "magistral-", "codestral-", "ministral-"), "mistral"),
    (("deepseek-",), "deepseek"), (("grok-",), "xai"), (("command-",), "cohere"), (("sonar",), "perplexity"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The configuration, and what of the routes it does not say."""

    text: str
    config: Mapping[str, Any]
    notes: tuple[str, ...]


def to_litellm(routes: Routes, *, api_base: str | None = None, api_key_env: str | None = None) -> Exported:
    """The routes as a LiteLLM configuration.

    Args:
        routes: what to export.
        api_base: the address of candidates that have none of their own, an OpenAI-compatible one; without it each
            candidate's provider is told from its upstream or its name.
        api_key_env: the environment variable with the key for it.

    Raises:
        ConfigError: a task has the name of a candidate, a tier or `auto`: LiteLLM knows them all by one name.
    """
    notes: list[str] = []
    params = {
        name: _params(name, spec, notes, api_base=api_base, api_key_env=api_key_env)
        for name, spec in routes.models.items()
    }
    models: list[dict[str, Any]] = []
    fallbacks: list[dict[str, list[str]]] = []
    taken: dict[str, str] = {}

    def group(name: str, kind: str, shares: Mapping[str, float], others: tuple[str, ...]) -> None:
        if kind == "task" and taken.get(name) == "a candidate" and list(shares) == [name]:
            if others:  # the candidate's own group stands for the task as well
                fallbacks.append({name: list(others)})
            return
        if name in taken:
            raise ConfigError(
                f"{kind} {name!r} has the name of {taken[name]}, and LiteLLM knows both by it; rename one, or export another "
                "format"
            )
        taken[name] = f"a {kind}"
        for who, share in shares.items():
            weight = {"weight": round(share, 6)} if len(shares) > 1 else {}
            models.append({"model_name": name, "litellm_params": {**params[who], **weight}})
        if others:
            fallbacks.append({name: list(others)})

    for name in routes.candidates:
        group(name, "candidate", {name: 1.0}, ())
    for name, members in routes.tiers.items():
        group(name, "tier", {members[0]: 1.0}, members[1:])
    for one in routes.tasks:
        shares = {who: share for who, share in one.shares.items() if round(share, 6) > 0}
        group(AUTO if one.task == ANY else one.task, "task", shares, one.fallbacks)
        if one.rungs:
            notes.append(
                f"{one.task}: LiteLLM does not judge answers, so a run does not escalate to {', '.join(one.rungs)}"
            )
        if one.conditions:
            notes.append(
                f"{one.task}: its conditions are left out; ask for {', '.join(dict.fromkeys(one.conditional))} by name"
            )
    settings: dict[str, Any] = {"routing_strategy": "simple-shuffle"}
    if fallbacks:
        settings["fallbacks"] = fallbacks
    config = {"model_list": models, "router_settings": settings}
    head = [
        f"Written by `tierwise export --format litellm`: routes version {routes.version}.",
        "Ask for a task by its name in the place of a model's (auto: tasks nobody named).",
        *notes,
    ]
    text = "".join(f"# {line}\n" for line in head) + dumped(config)
    return Exported(text=text, config=config, notes=tuple(notes))


def _params(
    name: str, spec: ModelSpec, notes: list[str], *, api_base: str | None, api_key_env: str | None
) -> dict[str, Any]:
    """`litellm_params` of one candidate. Keys are named by their variable, never written down."""
    found: dict[str, Any] = {}
    base, key = (spec.base_url, spec.api_key_env) if spec.base_url else (None, None)
    if base is None and spec.upstream is None and api_base is not None:
        base, key = api_base, api_key_env
    if base is not None:
        found["model"], found["api_base"] = f"openai/{spec.model}", base
        if key is not None:
            found["api_key"] = f"os.environ/{key}"
    elif spec.upstream is not None:
        provider = PROVIDERS.get(spec.upstream.lower())
        if provider is None:
            notes.append(f"{name}: where its upstream {spec.upstream!r} is, only the application knows; set api_base")
        found["model"] = f"{provider or 'openai'}/{spec.model}"
    else:
        found["model"] = _named(name, spec.model, notes)
    taken_away = [parameter for parameter, value in spec.params.items() if value is None]
    if taken_away:
        notes.append(f"{name}: LiteLLM cannot take away what the caller sends ({', '.join(taken_away)})")
    return found | {parameter: value for parameter, value in spec.params.items() if value is not None}


def _named(name: str, model: str, notes: list[str]) -> str:
    vendor, slash, _ = model.partition("/")
    if slash:
        if vendor in PROVIDERS.values():
            return model
        return f"openrouter/{model}"
    for starts, provider in _FAMILIES:
        if model.startswith(starts):
            return f"{provider}/{model}"
    notes.append(
        f"{name}: its name tells no provider; taken for OpenAI's, set its model and api_base, or use --api-base"
    )
    return f"openai/{model}"
