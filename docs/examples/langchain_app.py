"""A LangChain chain whose calls are observed and routed: python langchain_app.py

pip install tierwise langchain-openai; OPENAI_BASE_URL and OPENAI_API_KEY say where the models are.
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

import tierwise

INCIDENT = (
    "The 09:10 release moved the session cache to a new cluster. At 09:25 users were logged out. It was rolled back."
)


@tierwise.check("summary")
def five_bullets(text: str) -> bool:
    """What a good summary looks like."""
    return sum(line.startswith("- ") for line in text.splitlines()) == 5


def main() -> None:
    """Prints a summary, whole and as a stream."""
    tierwise.instrument()  # every client made from here on, the ones inside ChatOpenAI too
    prompt = ChatPromptTemplate.from_template("Summarise in five lines, each a bullet beginning with '- ':\n\n{text}")
    chain = prompt | ChatOpenAI(model="auto", stream_usage=True) | StrOutputParser()
    with tierwise.task("summary"):
        print(chain.invoke({"text": INCIDENT}))
        for piece in chain.stream({"text": INCIDENT}):
            print(piece, end="")
    print()


if __name__ == "__main__":
    main()
