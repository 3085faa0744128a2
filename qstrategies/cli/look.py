"""The commands that show what there is: list, data."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show, show_json
from qstrategies.cli.values import folder
from qstrategies.errors import unknown
from qstrategies.records import GROUPS
from qstrategies.registry import OWN, Registry


def add_list(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON")


def list_all(options: argparse.Namespace) -> int:
    from qstrategies.plugins import REGISTRIES

    listing = {
        kind: [_describe(name, registry) for name in registry.names()]
        for kind, registry in REGISTRIES.items()
    }
    listing["strategies"] = _grouped(listing["strategies"])
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
            show(f"  {item['name']:<22} {item['summary']}  {item['paper']}".rstrip())
            if item["options"]:
                show(f"  {'':<22} options: {item['options']}")
            if item["origin"] != OWN:
                show(f"  {'':<22} from {item['origin']}")
    return 0


def _grouped(items: list[dict[str, str]]) -> list[dict[str, str]]:
    """Those of ``GROUPS`` in its order, then others; by name within each."""
    groups = [*GROUPS, *sorted({item["group"] for item in items} - {*GROUPS})]
    return [item for group in groups for item in items if item["group"] == group]


def _describe(name: str, registry: Registry[Any]) -> dict[str, str]:
    item = registry.get(name)
    options = ", ".join(
        f"{key}={option.default:g} ({option.help})"
        for key, option in getattr(item, "options", {}).items()
    )
    return {
        "name": name,
        "summary": _summary(item),
        "group": getattr(item, "group", ""),
        "paper": getattr(item, "paper", ""),
        "options": options,
        "origin": registry.origin(name),
    }


def _summary(item: Any) -> str:
    """What ``item`` says of itself first, as one line, or nothing."""
    documented = item.__doc__ if inspect.isroutine(item) else vars(item).get("__doc__")
    summary = getattr(item, "summary", None)
    text = summary if isinstance(summary, str) and summary else documented or ""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


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
    from qstrategies.datasets import made_dataset
    from qstrategies.datasets.show import show as look_at

    if options.action != "show":
        raise unknown("action of data", options.action, ["show"])
    text, counts = look_at(made_dataset(options.dataset, location(options)), options.out)
    if options.json:
        show_json(counts)
    else:
        show(text)
    return 0
