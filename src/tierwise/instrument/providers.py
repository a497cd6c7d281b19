"""Which provider a base URL belongs to, in the words of the GenAI conventions, and what it is known to accept."""

from __future__ import annotations

import functools
import re
from typing import Final

_BY_SUFFIX: Final[tuple[tuple[str, str], ...]] = (
    ("api.openai.com", "openai"),
    ("openai.azure.com", "azure.ai.openai"),
    ("cognitiveservices.azure.com", "azure.ai.openai"),
    ("openai.azure.us", "azure.ai.openai"),
    ("openai.azure.cn", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("inference.ai.azure.com", "azure.ai.inference"),
    ("models.github.ai", "azure.ai.inference"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.deepseek.com", "deepseek"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.x.ai", "x_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.anthropic.com", "anthropic"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.moonshot.cn", "moonshot_ai"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ("openrouter.ai", "openrouter"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("api.cerebras.ai", "cerebras"),
    ("api.fireworks.ai", "fireworks"),
)
_BEDROCK: Final = re.compile(r"(^|\.)bedrock[a-z-]*\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|api\.aws)$")

STREAM_USAGE: Final = frozenset(
    {"openai", "openrouter", "groq", "deepseek", "x_ai", "together", "fireworks", "cerebras", "gcp.gemini"}
)
"""Providers known to accept `stream_options.include_usage`; nobody else is asked by default."""


@functools.lru_cache(maxsize=1024)
def provider_of(host: str | None) -> str:
    """The provider's name for a host; the host itself when it is nobody's known address, `_OTHER` without one."""
    if not host:
        return "_OTHER"
    host = host.lower().rstrip(".")
    for suffix, name in _BY_SUFFIX:
        if host == suffix or host.endswith(("." + suffix, "-" + suffix)):
            return name
    return "aws.bedrock" if _BEDROCK.search(host) else host
