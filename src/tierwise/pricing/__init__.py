"""What tokens cost: genai-prices → `Rates`, the user's overrides, provider names of the conventions."""

from __future__ import annotations

from tierwise.pricing.book import CatalogueBook, load_price_book, override_rates

__all__ = ["CatalogueBook", "load_price_book", "override_rates"]
