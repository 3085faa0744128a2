"""The whole comparison of a model of your own in one call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qstrategies.arguments import public
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Dataset, Location
from qstrategies.evidence import conclude
from qstrategies.experiment.comparison import DEFAULT_BITS, default_strategies, plan, run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.models import MODELS
from qstrategies.progress import Progress
from qstrategies.records import ExperimentConfig, RunRecord
from qstrategies.registry import Registry
from qstrategies.report.write import write_report
from qstrategies.strategies.base import BASELINE


@public
def compare(  # noqa: PLR0913 - one keyword per setting
    model: str | nn.Module | Callable[[], nn.Module],
    dataset: str | Dataset,
    strategies: str | Sequence[str] = (),
    *,
    bits: int | Sequence[int] = DEFAULT_BITS,
    seeds: int = 1,
    out: str | Path = "runs",
    config: ExperimentConfig = ExperimentConfig(strategy=BASELINE),
    location: Location = Location(),
    quiet: bool = False,
) -> list[RunRecord]:
    """Run ``strategies`` on ``model`` and ``dataset`` and write the report, ``report.html`` first,
    into ``out``; what lies there finished is read, not run again.

    Args:
        model: one that is trained already, which strategies start from and which is not changed; or
            a class or function that builds one to be trained; or a registered name.
        dataset: itself, or a registered name.
        strategies: by name; several if none is named.
        bits: of weights.
        seeds: how many, from that of ``config`` on.
        config: all other settings.

    Returns:
        The records, in the order of strategies, bits and seeds.

    Raises:
        InputError: unknown names, a strategy that cannot start from a trained model, a model that
            cannot be captured, data that does not fit.
    """
    with contextlib.ExitStack() as stack:
        name, data = (
            stack.enter_context(_named(registry, thing))
            for registry, thing in ((MODELS, model), (DATASETS, dataset))
        )
        base = dataclasses.replace(config, model=name, dataset=data)
        numbers = range(base.seed, base.seed + seeds)
        names = _several(strategies) or default_strategies(base)
        configs = plan(base, names, _several(bits), numbers)
        progress = Progress(quiet=quiet)
        stack.callback(progress.close)
        folder = Path(out)
        records = run_all(configs, Workspace(folder, location, progress))
        write_report(records, folder, *conclude(records, folder))
        return records


def _several(values: Any) -> Sequence[Any]:
    return [values] if isinstance(values, (str, int)) else values


@contextlib.contextmanager
def _named(registry: Registry[Any], thing: Any) -> Iterator[str]:
    """The name of ``thing``, under which it is found inside."""
    if isinstance(thing, str):
        yield thing
        return
    name = thing.name if isinstance(thing, Dataset) else getattr(thing, "__name__", "")
    name = name or type(thing).__name__
    with registry.lent(name, thing):
        yield name
