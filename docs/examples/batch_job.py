"""A nightly batch: tickets in, JSON out, eight at a time, judged as they come: python batch_job.py tickets.jsonl answers.jsonl

pip install tierwise; OPENAI_BASE_URL and OPENAI_API_KEY say where the models are. A line of the input is {"id": …, "text": …}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError

import tierwise

AT_ONCE = 8
PROMPT = (
    "Turn this support ticket into JSON. Return only JSON, without Markdown. Use exactly these keys: "
    '"title" (text), "severity" ("low", "medium" or "high"), "component" (text), "affected_users" (whole number), '
    '"summary" (text).\n\nTicket: '
)


@tierwise.check("ticket", on="value")
def severity_is_known(value: object) -> bool:
    """An answer that is valid JSON can still be useless."""
    return isinstance(value, dict) and value.get("severity") in ("low", "medium", "high")


async def answer(client: AsyncOpenAI, ticket: dict[str, str], turn: asyncio.Semaphore) -> dict[str, str]:
    """One ticket's line of the output; a model that fails costs its ticket, not the night."""
    async with turn:
        try:
            with tierwise.task("ticket", expects="json", prompt_version="1", labels={"batch": "nightly"}):
                response = await client.chat.completions.create(
                    model="auto", messages=[{"role": "user", "content": PROMPT + ticket["text"]}]
                )
        except OpenAIError as error:
            return {"id": ticket["id"], "error": type(error).__name__}
    return {"id": ticket["id"], "model": response.model, "answer": response.choices[0].message.content or ""}


async def main(source: Path, target: Path) -> None:
    """Answers every ticket; the order of the output is that of the input."""
    tickets = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    turn = asyncio.Semaphore(AT_ONCE)
    async with AsyncOpenAI() as client:
        tierwise.instrument(client)
        done = await asyncio.gather(*(answer(client, ticket, turn) for ticket in tickets))
    target.write_text("".join(json.dumps(line) + "\n" for line in done), encoding="utf-8")
    failed = sum("error" in line for line in done)
    print(f"{len(done)} tickets, {failed} failed; what they cost and how good they are: tierwise status")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
