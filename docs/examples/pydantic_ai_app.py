"""A pydantic-ai agent with typed output whose calls are observed and routed: python pydantic_ai_app.py

pip install tierwise 'pydantic-ai-slim[openai]'; OPENAI_BASE_URL and OPENAI_API_KEY say where the models are.
"""

from __future__ import annotations

from typing import Literal

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import tierwise

TEXT = (
    "Since the latest release the checkout times out when customers pay by card. Around 340 customers are affected, other "
    "ways to pay work. This is urgent: the payments team must fix it today."
)


class Ticket(BaseModel):
    """What is read out of a customer's words."""

    title: str
    severity: Literal["low", "medium", "high"]
    component: str
    affected_users: int
    summary: str


client = tierwise.instrument(AsyncOpenAI(), task="ticket")
agent = Agent(
    OpenAIChatModel("auto", provider=OpenAIProvider(openai_client=client)),
    output_type=NativeOutput(Ticket),
    instructions="Turn the support ticket into JSON.",
)


def main() -> None:
    """Prints the ticket."""
    print(agent.run_sync(f"Ticket: {TEXT}").output)


if __name__ == "__main__":
    main()
