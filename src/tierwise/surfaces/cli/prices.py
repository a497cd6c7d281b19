"""`tierwise prices`: rates in force, models without one, repricing, two models side by side. No network."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from tierwise.core.call import Usage
from tierwise.core.cost import KINDS, Rates, cost_of
from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli import complete
from tierwise.surfaces.cli.common import (
    NOTHING,
    cell,
    config_option,
    count,
    emit_json,
    json_option,
    make_table,
    money,
    nothing_recorded,
    open_store,
    out,
    read_policy,
    read_settings,
    say,
    store_option,
)
from tierwise.surfaces.cli.manual import OR_EMPTY, manual
from tierwise.surfaces.cli.progress import counted, lasting, waiting

if TYPE_CHECKING:
    from tierwise.config import Settings
    from tierwise.evidence import CallRow
    from tierwise.pricing import CatalogueBook
    from tierwise.pricing.catalogue import Catalogue

MOST_FOUND = 50
_QUIET = logging.NullHandler()


@click.group(
    "prices",
    invoke_without_command=True,
    epilog=manual(
        "tierwise prices",
        "tierwise prices search gemini flash",
        "tierwise prices missing",
        "tierwise prices reprice --dry-run",
        fault=OR_EMPTY,
    ),
)
@click.option("--missing", "only_missing", is_flag=True, help="Same as `tierwise prices missing`.")
@click.option("--reprice", "do_reprice", is_flag=True, help="Same as `tierwise prices reprice`.")
@json_option
@config_option
@store_option
@click.pass_context
def command(
    ctx: click.Context, only_missing: bool, do_reprice: bool, as_json: bool, config: str | None, store: str | None
) -> None:
    """Show the rates in force for the models that were called, in USD per million tokens.

    Sources, in order: what the provider reported with a call, prices: in tierwise.yaml, the installed genai-prices.
    """
    if ctx.invoked_subcommand is not None:
        if only_missing or do_reprice or as_json or config or store:
            raise click.UsageError(f"put the options behind {ctx.invoked_subcommand}")
        return
    if only_missing and do_reprice:
        raise click.UsageError("--missing and --reprice exclude each other")
    if only_missing:
        ctx.invoke(missing, as_json=as_json, config=config, store=store)
    elif do_reprice:
        ctx.invoke(reprice, dry_run=False, as_json=as_json, config=config, store=store)
    else:
        _in_force(as_json=as_json, config=config, store=store)


def _in_force(*, as_json: bool, config: str | None, store: str | None) -> None:
    settings = read_settings(config, store)
    book = _book(settings)
    with open_store(settings) as opened, lasting("reading calls") as told:
        seen = Counter(_asked(row) for row in counted(opened.calls(), opened.call_count(), told))
    if not seen:
        raise nothing_recorded(settings)
    found = [(f"{key[0]}/{key[3] or key[1]}", calls, _rates(book, *key)) for key, calls in seen.most_common()]
    if as_json:
        emit_json([{"model": name, "calls": calls, **_json(rates)} for name, calls, rates in found])
        return
    _table((name, count(calls), rates) for name, calls, rates in found)
    if any(rates is None for _, _, rates in found):
        say(
            "models without a price have no cost; state one under prices: in tierwise.yaml, then `tierwise prices reprice`"
        )


@command.command(
    "search",
    short_help="Find models in the installed catalogue.",
    epilog=manual("tierwise prices search claude sonnet", "tierwise prices search openai/ --json"),
)
@click.argument("words", nargs=-1, required=True, metavar="TERM...")
@json_option
def search(words: tuple[str, ...], as_json: bool) -> None:
    """Find models in the installed price catalogue by provider and name; every TERM must occur."""
    from tierwise.pricing import catalogue

    wanted = [word.casefold() for word in words]
    found = [
        listing
        for listing in catalogue.listings(datetime.now(UTC))
        if all(word in f"{listing.provider}/{listing.model} {listing.name}".casefold() for word in wanted)
    ]
    found.sort(key=lambda listing: (listing.provider, listing.model))
    if as_json:
        emit_json([{"model": f"{one.provider}/{one.model}", "name": one.name, **_json(one.rates)} for one in found])
    elif found:
        _table((f"{one.provider}/{one.model}", "", one.rates) for one in found[:MOST_FOUND])
        if len(found) > MOST_FOUND:
            say(f"{len(found) - MOST_FOUND:,} more; add a word to narrow the search, or use --json for all")
    else:
        say(f"no model in {catalogue.AS_OF} matches; state its rates under prices: in tierwise.yaml")


@command.command(
    "missing",
    short_help="List models whose calls have no cost.",
    epilog=manual(
        "tierwise prices missing",
        "tierwise prices missing --json",
        fault=OR_EMPTY,
    ),
)
@json_option
@config_option
@store_option
def missing(as_json: bool, config: str | None, store: str | None) -> None:
    """List called models whose calls have no cost, and whether a price is known by now."""
    settings = read_settings(config, store)
    book = _book(settings)
    with open_store(settings) as opened:
        unpriced = opened.unpriced_models()
    lines = [
        {"provider": provider, "model": model, "calls": calls, "known_now": _rates(book, provider, model) is not None}
        for provider, model, calls in unpriced
    ]
    if as_json:
        emit_json(lines)
        return
    if not lines:
        say("every recorded call with tokens has a cost")
        return
    table = make_table("Provider", "Model", "Calls", "Price known now", right=("Calls",))
    for provider, model, calls in unpriced:
        known = _rates(book, provider, model) is not None
        table.add_row(cell(provider), cell(model), cell(count(calls)), cell("yes" if known else "no"))
    out().print(table)
    if any(line["known_now"] for line in lines):
        say("`tierwise prices reprice` sets the costs whose price is known now")
    if not all(line["known_now"] for line in lines):
        say("state the others under prices: in tierwise.yaml (USD per million tokens), then `tierwise prices reprice`")


@command.command(
    "reprice",
    short_help="Compute recorded costs again, at the rates of now.",
    epilog=manual(
        "tierwise prices reprice --dry-run",
        "tierwise prices reprice",
        fault=OR_EMPTY,
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
@json_option
@config_option
@store_option
def reprice(dry_run: bool, as_json: bool, config: str | None, store: str | None) -> None:
    """Compute recorded costs again from the stored tokens at the rates in force now.

    Costs that a provider reported stay. Hours of which calls were pruned keep the cost they had.
    """
    settings = read_settings(config, store)
    book = _book(settings)

    def rates(row: CallRow) -> Rates | None:
        return _rates(book, *_asked(row))

    with open_store(settings, read_only=dry_run) as opened:
        number = opened.call_count()
        if number == 0:
            raise nothing_recorded(settings)
        with lasting("comparing costs") as told:
            before, after, changing = _difference(counted(opened.calls(), number, told), rates)
        with waiting("writing costs and the evidence of their hours"):
            done = None if dry_run else opened.reprice(rates)
    changed = changing if done is None else done.calls
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "calls": changed,
                "cost_before_usd": before,
                "cost_after_usd": after,
                "hours_rebuilt": None if done is None else done.rebuilt,
                "hours_left": None if done is None else done.left,
            }
        )
        return
    verb = "would change" if dry_run else "changed"
    click.echo(f"{changed:,} calls {verb}; recorded cost {money(before)} → {money(after)}")
    if done is not None and done.left:
        say(f"{done.left:,} hours of evidence keep their cost, since some of their calls are pruned")


@command.command(
    "compare",
    short_help="Put the rates of two models side by side.",
    epilog=manual(
        "tierwise prices compare gemini-3.5-flash claude-sonnet-4-5",
        "tierwise prices compare gpt-5-mini azure/gpt-5-mini --input-tokens 8000 --output-tokens 500",
        fault="wrong use or configuration, or a model without a price",
    ),
)
@click.argument("first", metavar="A", shell_complete=complete.models)
@click.argument("second", metavar="B", shell_complete=complete.models)
@click.option("--input-tokens", type=click.IntRange(0), default=1000, show_default=True, help="Tokens into each call.")
@click.option(
    "--output-tokens", type=click.IntRange(0), default=300, show_default=True, help="Tokens out of each call."
)
@json_option
@config_option
def compare(first: str, second: str, input_tokens: int, output_tokens: int, as_json: bool, config: str | None) -> None:
    """Put the rates of two models side by side, and what 1,000 calls cost; write MODEL or PROVIDER/MODEL."""
    book = _book(read_settings(config))
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    found = [(name, _named(book, name)) for name in (first, second)]
    costs = [cost_of(usage, rates) for _, rates in found]
    each = [None if cost is None else 1000 * cost.amount_usd for cost in costs]
    ratio = each[1] / each[0] if each[0] and each[1] is not None else None
    if as_json:
        emit_json(
            {
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "models": [
                    {"model": name, **_json(rates), "cost_per_1000_calls_usd": cost}
                    for (name, rates), cost in zip(found, each, strict=True)
                ],
                "ratio": ratio,
            }
        )
        return
    _table(((name, money(cost), rates) for (name, rates), cost in zip(found, each, strict=True)), "$/1k calls")
    say(f"a call: {input_tokens:,} tokens in, {output_tokens:,} out")
    if ratio is not None:
        say(f"{second} costs {ratio:.3g} times as much as {first}")


@command.command("catalogue", epilog=manual("tierwise prices catalogue", "tierwise prices catalogue --json"))
@json_option
def catalogue_command(as_json: bool) -> None:
    """Show which price catalogue is installed, and how current it is. It is never downloaded: a new one is installed."""
    from tierwise.pricing.catalogue import describe

    found = describe(datetime.now(UTC))
    if as_json:
        emit_json(
            {
                "catalogue": found.version,
                "providers": found.providers,
                "models": found.models,
                "latest_change": found.latest_change and found.latest_change.isoformat(),
                "next_change": found.next_change and found.next_change.isoformat(),
            }
        )
        return
    click.echo(catalogue_words(found))
    say("a newer one: pip install -U genai-prices; `tierwise prices reprice` then sets recorded costs anew")


def catalogue_words(found: Catalogue) -> str:
    """The catalogue in a line."""
    parts = [f"{found.version}: {found.models:,} models of {found.providers:,} providers"]
    if found.latest_change is not None:
        parts.append(f"newest dated change of a price {found.latest_change}")
    if found.next_change is not None:
        parts.append(f"next one known for {found.next_change}")
    return ", ".join(parts)


def _book(settings: Settings) -> CatalogueBook:
    from tierwise.pricing import load_price_book

    # Models without a price are in the answer of these commands; the log need not say it again.
    logging.getLogger("tierwise").addHandler(_QUIET)
    policy = read_policy(settings)
    return load_price_book(policy.prices if policy is not None else None, background=False)


def _asked(row: CallRow) -> tuple[str, str, str | None, str | None]:
    return row.provider, row.request_model, row.service_tier, row.response_model


def _rates(
    book: CatalogueBook, provider: str, model: str, service_tier: str | None = None, response_model: str | None = None
) -> Rates | None:
    return book.rates(provider=provider, model=model, service_tier=service_tier, response_model=response_model)


def _named(book: CatalogueBook, name: str) -> Rates:
    """The rates of `MODEL`, or of `PROVIDER/MODEL` as the catalogue or the policy writes it."""
    rates = _rates(book, "", name)
    if rates is None:
        raise ConfigError(
            f"no price is known for {name!r}; `tierwise prices search` finds its name, or state its rates under prices: "
            "in tierwise.yaml"
        )
    return rates


def _difference(
    rows: Iterable[CallRow], rates: Callable[[CallRow], Rates | None]
) -> tuple[float | None, float | None, int]:
    """Recorded cost before and after repricing (USD, `None` without any) and the number of calls that change."""
    before: list[float] = []
    after: list[float] = []
    changed = 0
    for row in rows:
        new = row.cost_usd
        if row.cost_source != "provider":
            cost = cost_of(row.to_call().usage, rates(row))
            if cost is not None and (cost.amount_usd, cost.source) != (row.cost_usd, row.cost_source):
                new, changed = cost.amount_usd, changed + 1
        before += [] if row.cost_usd is None else [row.cost_usd]
        after += [] if new is None else [new]
    return (sum(before) if before else None), (sum(after) if after else None), changed


def _table(lines: Iterable[tuple[str, str, Rates | None]], number: str = "Calls") -> None:
    lines = list(lines)
    numbers = (number, "Input", "Output", "Cache read", "Cache write", "Reasoning")
    shown = numbers if any(text for _, text, _ in lines) else numbers[1:]
    table = make_table("Model", *shown, "Source", title="USD per million tokens", right=shown)
    for name, text, rates in lines:
        kinds = [NOTHING if rates is None else _rate(getattr(rates.bands[0], kind)) for kind in KINDS[:5]]
        values = [text, *kinds] if shown is numbers else kinds
        table.add_row(cell(name), *map(cell, values), cell(_source(rates)))
    out().print(table)


def _rate(value: float | None) -> str:
    return NOTHING if value is None else f"${value:.10g}"


def _source(rates: Rates | None) -> str:
    if rates is None:
        return "no price known"
    more = "".join(f", other rates above {band.above_input_tokens:,} tokens in" for band in rates.bands[1:])
    return (rates.as_of or rates.source) + more


def _json(rates: Rates | None) -> dict[str, object]:
    if rates is None:
        return {"rates_usd_per_million_tokens": None, "source": None, "as_of": None}
    bands = [
        {"above_input_tokens": band.above_input_tokens, **{kind: getattr(band, kind) for kind in KINDS}}
        for band in rates.bands
    ]
    return {"rates_usd_per_million_tokens": bands, "source": rates.source, "as_of": rates.as_of or None}
