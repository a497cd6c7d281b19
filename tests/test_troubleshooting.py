"""The troubleshooting page quotes what tierwise prints: every quoted message is in the source, word for word."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
SHORTEST = 12
"""Characters of a piece worth looking for."""


@cache
def spoken() -> str:
    """Every text of the source, formatted ones with a gap for each value and each printf mark."""
    texts: list[str] = []
    for path in sorted((ROOT / "src" / "tierwise").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[a-z]", "…", node.value).replace("%%", "%"))
    return "\n".join(texts)


def quoted() -> list[str]:
    """The messages in the first column."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [re.match(r"\| `([^`]+)`", row).group(1) for row in rows]  # type: ignore[union-attr]


def test_quoted_messages_are_those_that_tierwise_prints() -> None:
    """Each piece of a quoted message between two gaps stands in the source."""
    pieces = [piece.strip() for text in quoted() for piece in text.split("…")]
    looked_for = [piece for piece in pieces if len(piece) >= SHORTEST]
    assert len(looked_for) > 30
    assert [piece for piece in looked_for if piece not in spoken()] == []


def test_every_word_of_trouble_has_a_place() -> None:
    """The page has a section for each part that doctor looks at."""
    headings = " ".join(re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.M)).lower()
    assert [
        word for word in ("recorded", "store", "costs", "recommend", "routes", "export") if word not in headings
    ] == []
