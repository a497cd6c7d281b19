"""Provider names come from the host, never from the client's class."""

from __future__ import annotations

import pytest

from tierwise.instrument.hook import endpoint_of
from tierwise.instrument.providers import provider_of


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("my-resource.openai.azure.com", "azure.ai.openai"),
        ("x.services.ai.azure.com", "azure.ai.inference"),
        ("api.groq.com", "groq"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.deepseek.com", "deepseek"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("openrouter.ai", "openrouter"),
        ("bedrock-mantle.us-east-1.api.aws", "aws.bedrock"),
        ("bedrock-runtime.eu-central-1.amazonaws.com", "aws.bedrock"),
        ("API.OpenAI.com.", "openai"),
        ("notapi.openai.com.evil.example", "notapi.openai.com.evil.example"),
        ("llm.internal", "llm.internal"),
        ("", "_OTHER"),
    ],
)
def test_provider_of_host(host: str, provider: str) -> None:
    """Known hosts have their conventional names, others stand for themselves."""
    assert provider_of(host) == provider


def test_endpoint_ports() -> None:
    """The port is the stated one, else that of the scheme."""
    assert (endpoint_of("http://localhost:8000/v1").port, endpoint_of("https://api.openai.com/v1").port) == (8000, 443)
