"""What MkDocs is told about these pages: their order is that of index.md, and what is outside `docs/` is named, not linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_ROW = re.compile(r"^\| \[([^\]]+)\]\(([\w/-]+\.md)\) \|", re.M)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_config(config: Any) -> Any:
    """The navigation: the pages of the table in index.md."""
    index = Path(config["docs_dir"], "index.md").read_text(encoding="utf-8")
    config["nav"] = [{"Overview": "index.md"}, *({title: path} for title, path in _ROW.findall(index))]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page without links to files of the repository that are no pages of the site."""
    return _OUTSIDE.sub(r"\1", markdown)
