"""Where data is found, as options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qstrategies.cli.values import folder

if TYPE_CHECKING:
    from qstrategies.datasets.base import Location


def add_location(group: Any) -> None:
    group.add_argument(
        "--data-dir", type=folder, help="folder with a dataset's IDX files (plain, .gz or .xz)"
    )
    group.add_argument(
        "--cache-dir",
        type=folder,
        help="where data is unpacked (default: $QSTRATEGIES_CACHE or ~/.cache/qstrategies)",
    )
    group.add_argument(
        "--download",
        action="store_true",
        help="let torchvision download a dataset that is not here",
    )


def location(options: argparse.Namespace) -> Location:
    from qstrategies.datasets.base import Location

    return Location(options.cache_dir, options.data_dir, options.download)
