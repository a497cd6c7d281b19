"""A policy from a LiteLLM configuration: deployments become candidates, model groups become tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tierwise.core.errors import ConfigError
from tierwise.core.records import dataclass
from tierwise.surfaces.export.formats import dumped

_ENDPOINTS: Final = {
    "anthropic": ("https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": ("https://api.deepseek.com", "DEEPSEEK_API_KEY"),
    "fireworks_ai": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai/", "GEMINI_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "together_ai": ("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
}
"""Providers with an OpenAI-compatible address, and the variables in which LiteLLM looks for their keys."""
_OPENAI: Final = ("openai", "custom_openai", "text-completion-openai", "litellm_proxy", "hosted_vllm", "")
_CLIENTS: Final = (
    "azure", "azure_ai", "bedrock", "cohere", "databricks", "huggingface", "nvidia_nim", "ollama", "ollama_chat",
    "replicate", "sagemaker", "sambanova", "vertex_ai", "watsonx",
)  # fmt: skip
"""Providers that need a client of the application's own."""
_PARAMETERS: Final = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "presence_penalty",
    "frequency_penalty", "reasoning_effort", "response_format", "service_tier", "logprobs", "top_logprobs", "verbosity",
)  # fmt: skip
_PRICES: Final = {
    "input_cost_per_token": "input", "output_cost_per_token": "output", "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write", "output_cost_per_reasoning_token": "reasoning",
}  # fmt: skip
_KNOWN: Final = ("model", "api_base", "base_url", "api_key", "weight", "order", "custom_llm_provider")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_ADDRESS: Final = re.compile(r"https?://[^\s/@?#]{1,300}(/[^\s@?#]{0,1500})?")
"""Without a user, password or query, which may be secrets."""
_MAX_CANDIDATES: Final = 50
_DEFAULT: Final = ("auto", "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The policy as text, and what of the configuration it does not say."""

    text: str
    notes: tuple[str, ...]
    tasks: int
    candidates: int


def policy_from_litellm(path: Path) -> Imported:
    """The policy that a LiteLLM configuration amounts to. Keys are named by their variable and never copied.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or names no model that a policy could use.
    """
    from tierwise.config import check_text
    from tierwise.config.yamlfile import parse, read_text

    tree = parse(read_text(path), name=str(path))
    errors = [str(one) for one in tree.findings if one.severity == "error"]
    if errors:
        raise ConfigError("\n".join(errors))
    if not isinstance(tree.value, dict) or not isinstance(tree.value.get("model_list"), list):
        raise ConfigError(
            f"{path}: no LiteLLM configuration: it has no model_list; name the file that the proxy is started with"
        )
    reading = _Reading()
    policy = reading.policy(tree.value)
    head = [f"Started by `tierwise import litellm {path.name}`. Look it over: order is preference, best-liked first."]
    text = "".join(f"# {line}\n" for line in (*head, *reading.notes)) + "\n" + dumped(policy)
    findings = check_text(text)
    if findings.errors:
        raise ConfigError(
            f"{path}: cannot be made into a valid policy:\n" + "\n".join(one.message for one in findings.errors)
        )
    return Imported(
        text=text, notes=tuple(reading.notes), tasks=len(policy["tasks"]), candidates=len(reading.candidates)
    )


class _Reading:
    """Reads one configuration; collects candidates, prices and notes on the way."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.candidates: dict[str, dict[str, Any]] = {}
        """Name -> its entry in `models:`, empty for a bare model name."""
        self.prices: dict[str, dict[str, float]] = {}
        self.groups: dict[str, list[str]] = {}

    def policy(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The policy as plain values."""
        for group, deployments in self._deployments(config).items():
            names = [self._candidate(group, params) for params in deployments]
            self.groups[group] = list(dict.fromkeys(name for name in names if name is not None))
        self.groups = {group: names for group, names in self.groups.items() if names}
        if not self.groups:
            raise ConfigError(
                "no model of this LiteLLM configuration can be a candidate: "
                + ("; ".join(self.notes) or "model_list is empty")
            )
        router, settings = _mapping(config.get("router_settings")), _mapping(config.get("litellm_settings"))
        tasks = self._tasks(router, settings)
        self._leave_out(config, router, settings)
        found: dict[str, Any] = {}
        if models := {name: entry for name, entry in self.candidates.items() if entry}:
            found["models"] = models
        if self.prices:
            found["prices"] = self.prices
        found["tasks"] = tasks
        return found

    # -- deployments -----------------------------------------------------------------------------------------------

    def _deployments(self, config: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
        """`litellm_params` by model group, best-liked first: by order, then by weight."""
        found: dict[str, list[tuple[float, float, Mapping[str, Any]]]] = {}
        for number, entry in enumerate(map(_mapping, config["model_list"]), start=1):
            name, params = entry.get("model_name"), _mapping(entry.get("litellm_params"))
            if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(params.get("model"), str):
                self._note(f"model_list entry {number} has no model_name or no litellm_params.model: left out")
                continue
            if "*" in name or "*" in params["model"]:
                self._note(f"{name}: a wildcard stands for models that are not named: left out; name those you use")
                continue
            mode = _mapping(entry.get("model_info")).get("mode")
            if mode not in (None, "chat", "completion", "responses"):
                self._note(f"{name}: of mode {mode}, which is not routed: left out")
                continue
            prices = {**params, **_mapping(entry.get("model_info"))}
            ranked = (
                _number(params.get("order"), 0.0),
                -_number(params.get("weight"), 1.0),
                {**params, "_prices": prices},
            )
            found.setdefault(name, []).append(ranked)
        for name, entries in found.items():
            if len({weight for _, weight, _ in entries}) > 1:
                self._note(
                    f"{name}: its weights became an order; shares of the traffic belong to routes, see `tierwise plan`"
                )
        return {
            name: [params for *_, params in sorted(entries, key=lambda one: one[:2])] for name, entries in found.items()
        }

    def _candidate(self, group: str, params: Mapping[str, Any]) -> str | None:
        provider, model = _provider(params)
        if not _NAME.fullmatch(model):
            self._note(f"{group}: its model's name cannot be used: left out")
            return None
        entry = self._entry(group, provider, params)
        if kept := {name: params[name] for name in _PARAMETERS if params.get(name) is not None}:
            entry["params"] = kept
        others = sorted(name for name in params if name not in (*_KNOWN, *_PARAMETERS, *_PRICES, "_prices"))
        if others:
            self._note(f"{group}: not carried over: {', '.join(others)}")
        self._price(model, params["_prices"])
        name = self._name(group, model, entry)
        if name != model:
            entry = {"model": model, **entry}
        self.candidates[name] = entry
        return name

    def _entry(self, group: str, provider: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Where the candidate is reached and with whose key."""
        base, key = params.get("api_base") or params.get("base_url"), self._key(group, params)
        entry: dict[str, Any] = {}
        if provider in _CLIENTS:
            self._note(f"{group}: give its client as tierwise.instrument(client, upstreams={{{provider!r}: ...}})")
            return {"upstream": provider}
        known = _ENDPOINTS.get(provider)
        if isinstance(base, str) and _ADDRESS.fullmatch(base):
            entry["base_url"] = base
        elif base is not None:
            self._note(
                f"{group}: its api_base is a variable, or holds more than an address, and was not copied: set base_url"
            )
        elif known is not None:
            entry["base_url"], key = known[0], key or known[1]
        elif provider not in _OPENAI:
            self._note(f"{group}: where {provider!r} is, is not known here: set base_url, or give an upstream")
        elif key not in (None, "OPENAI_API_KEY"):
            entry["base_url"] = "https://api.openai.com/v1"
        if "base_url" in entry and key is not None:
            entry["api_key_env"] = key
        return entry

    def _key(self, group: str, params: Mapping[str, Any]) -> str | None:
        """The variable that holds a deployment's key; one that is written out is not looked at."""
        key = params.get("api_key")
        if key is None:
            return None
        variable = key.removeprefix("os.environ/") if isinstance(key, str) else ""
        if isinstance(key, str) and key.startswith("os.environ/") and _VARIABLE.fullmatch(variable):
            return variable
        self._note(
            f"{group}: its key is written out in the file and was not copied: put it into a variable, set api_key_env"
        )
        return None

    def _name(self, group: str, model: str, entry: Mapping[str, Any]) -> str:
        """A name of its own for the candidate: the model's, the group's, then numbers."""
        places = [model, *([group] if group != model else []), *(f"{model}-{n}" for n in range(2, 1000))]
        for name in places:
            told = entry if name == model else {"model": model, **entry}
            if self.candidates.get(name, told) == told and not (name == group and name in self.groups):
                return name
        raise ConfigError(f"{model}: more than 1,000 deployments of one model; name those that you use")

    def _price(self, model: str, given: Mapping[str, Any]) -> None:
        found = {
            kind: float(f"{given[name] * 1e6:.12g}")
            for name, kind in _PRICES.items()
            if isinstance(given.get(name), (int, float)) and not isinstance(given[name], bool) and 0 <= given[name] < 1
        }
        if found and self.prices.setdefault(model, found) != found:
            self._note(f"{model}: it has several prices; the first was taken")

    # -- groups ----------------------------------------------------------------------------------------------------

    def _tasks(self, router: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """A task for every model group that is more than one candidate of the same name, and one for everything else."""
        after = _fallbacks(settings.get("fallbacks")) | _fallbacks(router.get("fallbacks"))
        defaults = [name for one in (settings, router) for name in _names(one.get("default_fallbacks"))]
        listed = {group: self._with_fallbacks(group, after, defaults) for group in self.groups}
        for alias, target in _mapping(router.get("model_group_alias")).items():
            group = target.get("model") if isinstance(target, dict) else target
            found = listed.get(group) if isinstance(group, str) else None
            if found is not None and isinstance(alias, str) and _NAME.fullmatch(alias):
                listed[alias] = found if alias not in after else self._extended(found, after[alias])
            else:
                self._note(f"alias {str(alias)[:80]!r} leads to no model group: left out")
        tasks: dict[str, Any] = {}
        for name, candidates in listed.items():
            if len(candidates) > _MAX_CANDIDATES:
                self._note(f"{name}: only the first {_MAX_CANDIDATES} of its models were kept")
            if candidates != [name] and name not in _DEFAULT:
                tasks[name] = {"candidates": candidates[:_MAX_CANDIDATES]}
        everything = [who for candidates in listed.values() for who in candidates]
        rest = next((listed[name] for name in _DEFAULT if name in listed), list(dict.fromkeys(everything)))
        return {**tasks, "*": {"candidates": rest[:_MAX_CANDIDATES]}}

    def _with_fallbacks(self, group: str, after: Mapping[str, list[str]], defaults: list[str]) -> list[str]:
        return self._extended(
            self.groups[group], [*after.get(group, []), *(name for name in defaults if name != group)]
        )

    def _extended(self, candidates: Iterable[str], groups: Iterable[str]) -> list[str]:
        others = [who for group in groups for who in self.groups.get(group, [])]
        return list(dict.fromkeys([*candidates, *others]))

    def _leave_out(self, config: Mapping[str, Any], router: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Say which settings have no counterpart here."""
        carried = ("fallbacks", "default_fallbacks", "model_group_alias", "routing_strategy")
        for place, found in (("router_settings", router), ("litellm_settings", settings)):
            if left := sorted(str(name) for name in found if name not in carried):
                self._note(f"{place}: not carried over: {', '.join(left)}")
        if router.get("routing_strategy", "simple-shuffle") != "simple-shuffle":
            self._note(
                f"routing_strategy {router['routing_strategy']}: routes follow measured cost per success instead"
            )
        sections = [str(name) for name in config if name not in ("model_list", "router_settings", "litellm_settings")]
        if sections:
            self._note(f"not carried over: {', '.join(sorted(sections))}")

    def _note(self, text: str) -> None:
        text = re.sub(r"[\x00-\x1f\x7f]", " ", text)
        if text not in self.notes:
            self.notes.append(text)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _fallbacks(value: Any) -> dict[str, list[str]]:
    """`[{a: [b, c]}, …]` as one mapping."""
    entries = value if isinstance(value, list) else []
    return {name: _names(others) for entry in entries if isinstance(entry, dict) for name, others in entry.items()}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def _provider(params: Mapping[str, Any]) -> tuple[str, str]:
    """(provider, model): LiteLLM writes `provider/model`, or tells the provider apart."""
    told, model = params.get("custom_llm_provider"), str(params["model"])
    first, slash, rest = model.partition("/")
    if isinstance(told, str) and told:
        return told, rest if slash and first == told else model
    if slash and first in (*_OPENAI, *_ENDPOINTS, *_CLIENTS):
        return first, rest
    if slash:
        return "" if params.get("api_base") or params.get("base_url") else first, model
    for start, provider in (("claude-", "anthropic"), ("gemini-", "gemini")):
        if model.startswith(start):
            return provider, model
    return "", model
