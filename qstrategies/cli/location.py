"""Where data and things of the user's own are found, as options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstrategies.arguments import as_path
from qstrategies.cli.values import file, folder
from qstrategies.errors import InputError

if TYPE_CHECKING:
    from qstrategies.datasets.base import Location


def add_location(group: Any) -> None:
    group.add_argument(
        "--data-dir",
        type=folder,
        help="folder with a dataset's IDX files (plain, .gz or .xz)",
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

    folder = options.data_dir
    if folder is not None and not folder.is_dir():
        raise InputError(f"--data-dir {str(folder)!r} is not there: give the folder of the data")
    return Location(options.cache_dir, options.data_dir, options.download)


def add_use(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--use",
        type=file,
        action="append",
        default=[],
        metavar="FILE.py",
        help="import this file, whose decorators register models, datasets, strategies, ... of "
        "your own (may be repeated)",
    )


def use(options: argparse.Namespace) -> None:
    """Import the files of ``--use``, and a model that is a file.

    Raises ``InputError`` for one that does not do.
    """
    paths, model = list(getattr(options, "use", [])), getattr(options, "model", "")
    if model.endswith(".py"):
        raise InputError(
            f"--model {model!r} is a file: give it as --use {model}, and as --model the name that "
            "it registers"
        )
    if model.endswith(".onnx"):
        paths.append(as_path(model, "--model"))
        options.model = Path(model).stem
    if not paths:
        return
    from qstrategies import plugins

    for path in paths:
        plugins.use(path)
