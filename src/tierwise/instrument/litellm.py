"""What LiteLLM's values say beside OpenAI's: provider names, its own cost figure, usage kept apart from the chunks.

Nothing here imports LiteLLM; its objects are read by their fields.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tierwise.instrument.dialects.base import Reading, StreamReader
from tierwise.instrument.dialects.values import fields, get, usage_of

_PROVIDERS: Final[dict[str, str]] = {
    "ai21": "ai21",
    "anthropic": "anthropic",
    "anthropic_text": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "bedrock_mantle": "aws.bedrock",
    "cerebras": "cerebras",
    "codestral": "mistral_ai",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "gcp.gemini",
    "github": "azure.ai.inference",
    "groq": "groq",
    "huggingface": "huggingface",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "sagemaker": "aws.sagemaker",
    "sagemaker_chat": "aws.sagemaker",
    "text-completion-codestral": "mistral_ai",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "watsonx_text": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's provider names in the words of the GenAI conventions, or as hosts give them in `providers`."""

_TOKEN_FIELDS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_SAID: Final = ("content", "tool_calls", "function_call", "refusal", "audio", "reasoning_content", "images")


def provider_named(body: Mapping[str, Any]) -> str | None:
    """The provider that a request names: `custom_llm_provider`, a prefix of the model, LiteLLM's list of models."""
    stated = body.get("custom_llm_provider")
    if isinstance(stated, str) and stated:
        return _provider(stated)
    model = body.get("model")
    if not isinstance(model, str):
        return None
    prefix, slash, _ = model.partition("/")
    if slash and (prefix in _PROVIDERS or prefix in _listed("provider_list")):
        return _provider(prefix)
    prefix, colon, _ = model.partition(":")
    if colon and prefix in _PROVIDERS:
        return _provider(prefix)
    known = _listed("model_cost")
    entry = known.get(model) if isinstance(known, Mapping) else None
    listed = get(entry, "litellm_provider")
    return _provider(listed) if isinstance(listed, str) else None


def _provider(name: str) -> str:
    found = _PROVIDERS.get(name)
    if found is None and name.startswith("vertex_ai-"):
        return "gcp.vertex_ai"
    return found or name


def _listed(name: str) -> Any:
    """A list of LiteLLM's, where the application has it loaded; its enumerations compare as strings."""
    return getattr(sys.modules.get("litellm"), name, None) or ()


def default_base(body: Mapping[str, Any]) -> str | None:
    """Where LiteLLM sends a request that names no base URL, when its settings or the environment redirect it."""
    base = getattr(sys.modules.get("litellm"), "api_base", None)
    if isinstance(base, str) and base:
        return base
    stated, model = body.get("custom_llm_provider"), body.get("model")
    name = stated if isinstance(stated, str) and stated else None
    if name is None:
        prefix, slash, _ = model.partition("/") if isinstance(model, str) else ("", "", "")
        name = prefix if slash and prefix.isidentifier() else "openai"
    upper = name.upper()
    return os.environ.get(f"{upper}_BASE_URL") or os.environ.get(f"{upper}_API_BASE")


def stated_cost(value: Any) -> str | None:
    """LiteLLM's own figure for what a whole response cost in USD, as text, or `None`."""
    hidden = getattr(value, "_hidden_params", None)
    cost = hidden.get("response_cost") if isinstance(hidden, dict) else get(hidden, "response_cost")
    return repr(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) else None


class Plain:
    """A model's fields, declared and undeclared ones together."""

    __slots__ = ("__dict__",)

    def __init__(self, found: dict[str, Any]) -> None:
        self.__dict__ = found

    @property
    def __pydantic_extra__(self) -> dict[str, Any]:
        return self.__dict__


def readable(value: Any) -> Any:
    """A response or chunk as the dialects read it.

    LiteLLM, and any client with permissive models, keeps usage, text and tool calls among the undeclared fields.
    """
    if type(getattr(value, "__pydantic_extra__", None)) is not dict or type(value).__module__.startswith("openai."):
        return value
    found = _all_fields(value)
    if found.get("usage") is not None:
        found["usage"] = Plain(_all_fields(found["usage"]))
    choices = found.get("choices")
    if isinstance(choices, list):
        found["choices"] = [_readable_choice(choice) for choice in choices]
    return Plain(found)


def _readable_choice(choice: Any) -> Any:
    found = _all_fields(choice)
    for name in ("delta", "message"):
        if found.get(name) is not None:
            found[name] = Plain(_all_fields(found[name]))
    return Plain(found)


def _all_fields(value: Any) -> dict[str, Any]:
    return {**fields(value), **(getattr(value, "__pydantic_extra__", None) or {})}


class StreamOfLitellm:
    """Reads a LiteLLM stream: its usage is what the provider reported in the chunks that LiteLLM received.

    The usage that LiteLLM hands out at the end may be its own count of tokens, which is no report.
    """

    __slots__ = ("_cost", "_inner", "_received")

    def __init__(self, inner: StreamReader, received: list[Any]) -> None:
        self._inner, self._received = inner, received
        self._cost: Any = None

    def see(self, chunk: Any) -> bool:
        """Take note of a chunk; true when it holds usage and nothing else."""
        usage = get(chunk, "usage")
        if usage is None:
            return self._inner.see(chunk)
        self._cost = get(usage, "cost")
        alone = not any(map(_says, get(chunk, "choices") or ()))
        if not alone:
            self._inner.see(Plain({**fields(chunk), "usage": None}))
        return alone

    @property
    def finished(self) -> bool:
        """The stream has said how it ended."""
        return self._inner.finished

    def reading(self) -> Reading:
        """What the stream has held so far, with the usage that the provider reported."""
        found: dict[str, Any] = {}
        for chunk in self._received:
            usage = get(chunk, "usage")
            if usage is not None:
                known = _all_fields(usage)
                found.update((name, said) for name, said in known.items() if said or name not in found)
        if self._cost is not None and any(found.get(name) for name in _TOKEN_FIELDS):
            found["cost"] = self._cost
        return replace(self._inner.reading(), usage=usage_of(found) if found else None)


def _says(choice: Any) -> bool:
    delta = get(choice, "delta")
    return bool(get(choice, "finish_reason") or get(choice, "text") or any(get(delta, name) for name in _SAID))


def received_chunks(stream: Any) -> list[Any] | None:
    """The chunks that a LiteLLM stream received so far (its own growing list), or `None` for any other stream."""
    if not type(stream).__module__.startswith("litellm."):
        return None
    for holder in (stream, getattr(stream, "completion_stream", None)):
        found = getattr(holder, "chunks", None)
        if isinstance(found, list):
            return found
    return None
