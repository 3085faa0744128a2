"""What a run and a trained model depend on, in named parts: equal parts, equal results; other
parts, and one can say which.

A new kind of input, as a checkpoint of the user, is one more part here.
"""

from __future__ import annotations

import copy
import pkgutil
import platform
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies import operators, source_code
from qstrategies.datasets.base import Dataset
from qstrategies.errors import InputError
from qstrategies.experiment.environment import package_version, package_versions
from qstrategies.experiment.stages import tensors_sha256
from qstrategies.files import sha256
from qstrategies.guest import seeded
from qstrategies.models import MODELS
from qstrategies.records import ExperimentConfig
from qstrategies.runtimes import RUNTIMES
from qstrategies.strategies import STRATEGIES

TRAINING = ("qstrategies.training.loop", "qstrategies.experiment.stages")
FAKE_QUANTIZERS = "qstrategies.quantization.qat"
RUN = "qstrategies.experiment.runs"
OPERATORS = tuple(
    f"{operators.__name__}.{each.name}" for each in pkgutil.iter_modules(operators.__path__)
)
"""Found by themselves, so that no import names them."""
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime")
"""torch trains, quantizes and has the int8 kernels, numpy computes with integers, onnx makes,
checks and judges the files, ONNX Runtime executes them."""

Parts = dict[str, str]


class Inputs:
    """Looks the parts up, each of them once."""

    def __init__(self, datasets: Callable[[str], Dataset]) -> None:
        self._datasets = datasets
        self._models: dict[str, str] = {}
        self._runs: dict[tuple[Any, ...], Parts] = {}

    def of_run(self, config: ExperimentConfig) -> Parts:
        """What the run of ``config`` depends on besides ``config``."""
        key = config.strategy, config.model, config.dataset, config.checkpoint
        if key not in self._runs:
            self._runs[key] = self._of_run(config)
        return dict(self._runs[key])

    def _of_run(self, config: ExperimentConfig) -> Parts:
        course = STRATEGIES.get(config.strategy).course
        names = [name for name in (config.strategy, course.parent) if name is not None]
        parts = {
            key: value for name in names for key, value in self.of_training(config, name).items()
        }
        roots = [RUN, *OPERATORS, *(RUNTIMES.get(name).__module__ for name in RUNTIMES.names())]
        parts["code of quantization, export and checks"] = source_code.of_modules(roots).digest
        return parts | {name: str(package_version(name)) for name in PACKAGES}

    def of_training(self, config: ExperimentConfig, strategy: str) -> Parts:
        """What training the model of ``config`` with ``strategy`` depends on besides settings, seed
        and machine."""
        parts = {
            "Python": ".".join(platform.python_version_tuple()[:2]),
            "torch": str(package_version("torch")),
            f"data of {config.dataset!r}": self._datasets(config.dataset).content,
            f"layers or initial weights of model {config.model!r}": self._fresh(config.model),
            **_model_code(config.model),
            **self._strategy(strategy),
            "code of training": source_code.of_modules(TRAINING).digest,
        }
        if config.start is not None:
            parts["contents of the checkpoint"] = config.start.sha256
        if STRATEGIES.get(strategy).course.fake_quantized:
            parts["code of fake quantizers"] = source_code.of_modules(
                [FAKE_QUANTIZERS, *OPERATORS]
            ).digest
        return parts

    def _strategy(self, name: str) -> Parts:
        """The code of a strategy, or of those that it is composed of."""
        kind = STRATEGIES.get(name)
        parts = getattr(kind, "parts", ())
        found = _code(f"code of strategy {name!r}", kind)
        for part in parts:
            found |= _code(f"code of {part.__name__} in strategy {name!r}", part)
        return found

    def _fresh(self, model: str) -> str:
        if model not in self._models:
            self._models[model] = _fresh(model)
        return self._models[model]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Which parts are not as they were, in words; None if all are."""
    if not before:
        return "it was made when runs did not note down what they depend on"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"{', '.join(names)} changed since" if names else None


def fresh_model(name: str, seed: int) -> nn.Module:
    """The model ``name`` as its factory builds it with all random states seeded; the user's stay as
    they were. A copy, where the model itself is registered.

    Raises ``InputError`` where the factory fails, or gives something else.
    """
    factory = MODELS.get(name)
    with torch.random.fork_rng(), seeded(seed):
        torch.manual_seed(seed)
        try:
            is_object = isinstance(factory, nn.Module)
            model: Any = copy.deepcopy(factory) if is_object else factory()
        except Exception as error:
            raise InputError(
                f"model {name!r} cannot be built: {source_code.reason(error)}; its code must run"
            ) from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise InputError(f"model {name!r}: its factory gives a {kind}, expected a torch.nn.Module")
    return model.cpu()


def _fresh(name: str) -> str:
    model = fresh_model(name, 0)
    tensors = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    return sha256(f"{layers} {tensors_sha256(tensors)}".encode())


def _model_code(name: str) -> Parts:
    """Of the factory; where the model itself is registered, of all that it is made of."""
    part, item = f"code of model {name!r}", MODELS.get(name)
    if not isinstance(item, nn.Module):
        return _code(part, item)
    kinds = {type(module) for module in item.modules()}
    found = [_code(part, kind) for kind in kinds if not kind.__module__.startswith("torch.")]
    digests = sorted(parts[part] for parts in found)
    versions = {key: value for parts in found for key, value in parts.items()}
    return versions | {part: sha256("".join(digests).encode())}


def _code(part: str, thing: Any) -> Parts:
    """The hash of its own code, and the versions of the packages of others that this imports."""
    source = source_code.of_object(thing)
    found = {part: source.digest}
    for name in sorted(source.packages):
        found |= package_versions(name)
    return found
