"""The commands that show what there is: list, data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show, show_json
from qstrategies.cli.values import folder
from qstrategies.errors import unknown
from qstrategies.records import GROUPS


def add_list(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON")


def list_all(options: argparse.Namespace) -> int:
    from qstrategies.datasets import DATASETS
    from qstrategies.models import MODELS
    from qstrategies.runtimes import RUNTIMES
    from qstrategies.strategies import STRATEGIES
    from qstrategies.trackers import TRACKERS

    listing: dict[str, list[dict[str, str]]] = {
        "strategies": _grouped(
            [_describe(name, STRATEGIES.get(name)) for name in STRATEGIES.names()]
        ),
        "models": [_describe(name, MODELS.get(name)) for name in MODELS.names()],
        "datasets": [_describe(name, DATASETS.get(name)) for name in DATASETS.names()],
        "runtimes": [_describe(name, RUNTIMES.get(name)) for name in RUNTIMES.names()],
        "trackers": [_describe(name, TRACKERS.get(name)) for name in TRACKERS.names()],
    }
    if options.json:
        show_json(listing)
        return 0
    for kind, items in listing.items():
        show(f"{kind}:")
        group = ""
        for item in items:
            if item.get("group", "") != group:
                group = item["group"]
                show(f" {group}")
            show(
                f"  {item['name']:<22} {item['summary']}"
                + (f"  {item['paper']}" if item.get("paper") else "")
            )
            if item.get("options"):
                show(f"  {'':<22} options: {item['options']}")
    return 0


def _grouped(items: list[dict[str, str]]) -> list[dict[str, str]]:
    """Those of ``GROUPS`` in its order, then others; by name within each."""
    groups = [*GROUPS, *sorted({item["group"] for item in items} - {*GROUPS})]
    return [item for group in groups for item in items if item["group"] == group]


def _describe(name: str, item: Any) -> dict[str, str]:
    options = ", ".join(
        f"{key}={option.default:g} ({option.help})"
        for key, option in getattr(item, "options", {}).items()
    )
    summary = getattr(item, "summary", None) or (item.__doc__ or "").strip().splitlines()[0]
    return {
        "name": name,
        "summary": summary,
        "group": getattr(item, "group", ""),
        "paper": getattr(item, "paper", ""),
        "options": options,
    }


def add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "action", metavar="show", help="show: class counts as text and a sample grid as a picture"
    )
    sub.add_argument(
        "--dataset", default="mnist", help="a dataset from `qstrategies list` (default: mnist)"
    )
    sub.add_argument(
        "--out", type=folder, default=Path("runs"), help="folder of the picture (default: runs)"
    )
    add_location(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")


def data(options: argparse.Namespace) -> int:
    from qstrategies.datasets import DATASETS
    from qstrategies.datasets.show import show as look_at

    if options.action != "show":
        raise unknown("action of data", options.action, ["show"])
    text, counts = look_at(DATASETS.get(options.dataset)(location(options)), options.out)
    if options.json:
        show_json(counts)
    else:
        show(text)
    return 0
