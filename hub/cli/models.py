"""``fmhub models``."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hub.cards import Card, list_models
from hub.domain import Domain, domains

WIDE = 120
"""Columns of a terminal that has room for a sentence beside the names."""


def models(
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List the models that load by name, and the domains installed."""
    cards = list_models(domain)
    shown = [d for d in domains().values() if domain in (None, d.name)]
    if as_json:
        print(json.dumps({"models": [_card(c) for c in cards], "domains": [_domain(d) for d in shown]}, indent=1))
        return
    console = Console()
    table = Table(box=None, pad_edge=False, expand=console.width >= WIDE)
    for name in ("model", "domain", "system", "weights", "licence"):
        table.add_column(name, no_wrap=True)
    # What a narrow terminal has no room for is the sentence, never the name.
    wide = console.width >= WIDE
    if wide:
        table.add_column("about", no_wrap=True, overflow="ellipsis", ratio=1)
    for card in cards:
        weights = "built in" if card.has_weights else "fetched" if card.fetched else "convert"
        cells = [card.name, card.domain, card.system, weights, str(card.metadata.get("license", ""))]
        table.add_row(*cells, *([card.summary] if wide else []))
    console.print(table)
    console.print()
    table = Table("domain", "systems", "reads", "state", box=None, pad_edge=False)
    for entry in shown:
        state = "ready" if not entry.missing else f"needs: {entry.install}"
        titles = ", ".join(s.title for s in entry.systems.values())
        table.add_row(entry.name, titles, " ".join(entry.suffixes), state)
    console.print(table)


def _card(card: Card) -> dict[str, object]:
    return {
        "name": card.name,
        "domain": card.domain,
        "system": card.system,
        "weights": card.has_weights,
        "fetched": card.fetched,
        "license": card.metadata.get("license"),
        "summary": card.summary,
    }


def _domain(domain: Domain) -> dict[str, object]:
    return {
        "name": domain.name,
        "title": domain.title,
        "systems": sorted(domain.systems),
        "suffixes": list(domain.suffixes),
        "missing": list(domain.missing),
        "install": domain.install,
    }
