"""A user's module -> its FX graph. What cannot be traced becomes a leaf by itself, if the rest
can."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qstrategies.errors import InputError, first_line, unknown
from qstrategies.operators import RECOGNIZERS
from qstrategies.quantization.concrete import Concrete, NotKnownError
from qstrategies.quantization.gradients import WITHOUT, is_without_gradients, values_detached
from qstrategies.quantization.in_float import let_in_float
from qstrategies.quantization.observe import describe, two_batches
from qstrategies.quantization.proxies import (
    InputProxy,
    SizedProxy,
    own_attributes,
    sizes_may_be_proxies,
)
from qstrategies.quantization.structure import Arguments

PLAIN = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)


def plain_base(module: nn.Module) -> type[nn.Module] | None:
    """The layer of torch that ``module`` is: one of its class, or of a subclass with the same
    forward."""
    for base in PLAIN:
        same_forward = isinstance(module, base) and type(module).forward is base.forward
        same_inner = getattr(type(module), "_conv_forward", None) is getattr(
            base, "_conv_forward", None
        )
        if same_forward and same_inner:
            return base
    return None


@dataclass(frozen=True)
class Captured:
    """``module`` shares the user's modules; ``leaves`` are those left in float, by name, with the
    reason, ``scattering`` those that act in training only. ``assumed``: the numbers of examples for
    which a forward may do something else, as ``Concrete`` has them."""

    module: fx.GraphModule
    leaves: Mapping[str, str]
    scattering: Collection[str] = ()
    assumed: Collection[int] = ()


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's may change what ``module`` computes; torch's own only compute its
    weight."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not type(hook).__module__.startswith("torch.nn.utils") for hook in hooks)


class _Tracer(fx.Tracer):
    """Leaves are what is left in float, torch's own modules, and subclasses of layers with the
    forward of their base."""

    proxy_buffer_attributes = True  # their methods take sizes of the input too

    def __init__(
        self,
        leaves: Collection[str],
        arguments: Arguments | None = None,
        *,
        assumes: bool = False,
    ) -> None:
        super().__init__()
        self.leaves, self.arguments, self.assumes = leaves, arguments, assumes
        self.concrete: Concrete | None = None
        self.error: Exception | None = None
        self.failing: list[str] = []

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """The graph of ``root``."""
        with sizes_may_be_proxies(), own_attributes(root):
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.leaves:
            return True
        known = super().is_leaf_module(m, module_qualified_name) and not isinstance(m, PLAIN)
        if plain_base(m) is None and not known:
            return False
        # what hooks do is a part of the graph, and what is between them too, if it can be
        return not has_hooks(m) or (type(m) not in RECOGNIZERS and _fails(m))

    def path_of_module(self, mod: nn.Module) -> str:
        """The name of ``mod``; one that is not registered in the model (it sits in a list or a
        closure) gets one."""
        try:
            return super().path_of_module(mod)
        except NameError:
            name = f"unregistered_{type(mod).__name__.lower()}_{len(self.root._modules)}"
            self.root.add_module(name, mod)
            return name

    def create_arg(self, a: Any) -> Any:
        """Numbers of NumPy are those of Python."""
        if type(a) is InputProxy:  # or it is searched for among the tensors of the model
            return a.node
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What is run to know a number is run, not traced. Of an error, ``failing`` has the modules
        around it, the innermost first."""
        if self.concrete is not None and self.concrete.running:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # whatever somebody's forward raises
            if error is not self.error:
                self.error, self.failing = error, []
            self.failing.append(self.path_of_module(m))
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """The parameters of what is run are themselves."""
        if self.concrete is not None and self.concrete.running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def concrete_value(self, node: fx.Node) -> Any:
        """The value of a number made of sizes. Raises ``TraceError`` for any other."""
        return self._known(node, Concrete.value)

    def count(self, node: fx.Node) -> int:
        """How many parts ``node`` gives. Raises ``TraceError`` where that is not known."""
        parts: int = self._known(node, Concrete.count)
        return parts

    def _known(self, node: fx.Node, asked: Callable[[Concrete, fx.Node], Any]) -> Any:
        try:
            if self.concrete is not None:
                return asked(self.concrete, node)
            reason = "it is traced alone"
        except NotKnownError as error:
            reason = str(error)
        raise fx.proxy.TraceError(f"a decision by {describe(node)}, and {reason}")

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A decision by sizes; any other cannot be traced."""
        return bool(self.concrete_value(obj.node))

    def iter(self, obj: fx.Proxy) -> Any:
        """What is unpacked as often as the caller says, or into as many parts as the example
        has."""
        try:
            return super().iter(obj)
        except fx.proxy.TraceError:
            several: Any = obj
            return (several[place] for place in range(self.count(obj.node)))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that also records assignments to parts of a tensor, of a node that knows where in
        the user's code it was made."""
        if node.op != "placeholder":
            node.meta["line"] = user_line()
            if is_without_gradients():
                node.meta[WITHOUT] = True
        return (InputProxy if node.op == "placeholder" else SizedProxy)(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the tensors of the example, in its structure; what it leaves out keeps
        its default."""
        if self.arguments is None:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        self.concrete = Concrete(
            self.root, two_batches(self.arguments.tensors), assumes=self.assumes
        )
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self.arguments.names]
        args, kwargs = self.arguments.filled(proxies)
        return lambda *given: root_fn(*given, **kwargs), [self.root, *args]


@torch.enable_grad()  # what the forward computes without gradients is without them
def capture(
    model: nn.Module,
    arguments: Arguments,
    left: Mapping[str, str],
    scattering: Collection[str] = (),
    *,
    assumes: bool = False,
) -> Captured:
    """Trace ``model``, the modules ``left`` (name to reason) as leaves, and those ``scattering``.
    With ``assumes``, decisions are taken that differ for one number of examples only.

    Raises:
        InputError: the model's own forward cannot be traced; the module is named, with the remedy.
    """
    leaves = dict(left)
    while True:
        tracer = _Tracer({*leaves, *scattering}, arguments, assumes=assumes)
        try:
            graph = tracer.trace(model)
            let_in_float(graph)
            values_detached(graph)
            assumed = tracer.concrete.assumed if tracer.concrete else ()
            return Captured(fx.GraphModule(model, graph), leaves, scattering, assumed)
        except (
            Exception
        ) as error:  # whatever the forward of somebody's model raises when given proxies
            failing = tracer.failing if error is tracer.error else []
            name = _culprit(model, leaves, failing)
            if not name:
                raise _refusal(model, error) from None
            leaves[name] = f"it cannot be traced: {first_line(error)}"


def _culprit(model: nn.Module, leaves: Collection[str], failing: Sequence[str]) -> str:
    """The innermost of the modules that are ``failing``, or of those that cannot be traced by
    themselves; "" if that is the whole model."""
    names = [name for name, _ in model.named_modules()]
    for name in (*failing, *reversed(names)):
        inside_leaf = any(name == other or name.startswith(f"{other}.") for other in leaves)
        module = model.get_submodule(name)
        if not name or inside_leaf or type(module).__module__.startswith("torch.nn.modules"):
            continue
        if name in failing or _fails(module):
            return name
    return ""


def _fails(module: nn.Module) -> bool:
    """Whether ``module`` cannot be traced by itself."""
    try:
        _Tracer(()).trace(module)
    except Exception:  # whatever somebody's forward raises
        return True
    return False


def _refusal(model: nn.Module, error: Exception) -> InputError:
    said, line = first_line(error), _source_line(model, error)
    where = f" at {line}" if line and line not in said else ""
    advice = "move that part into a module of its own, which then stays in float"
    part = _largest_part(model)
    if part:
        advice += f", or quantize model.{part} alone and put what .module() gives in its place"
    return InputError(f"{type(model).__name__} cannot be traced ({said}){where}: {advice}")


def _largest_part(model: nn.Module) -> str:
    """The child of ``model`` with the most parameters among those that can be traced; "" if none
    can."""
    sizes = {
        name: sum(each.numel() for each in child.parameters())
        for name, child in model.named_children()
    }
    names = sorted(filter(sizes.get, sizes), key=sizes.__getitem__, reverse=True)
    return next((name for name in names if not _fails(getattr(model, name))), "")


def _source_line(model: nn.Module, error: Exception) -> str:
    """Where in the user's code ``error`` was raised."""
    own, found = type(model).forward.__code__.co_filename, ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == own:
            found = f"{own}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def user_line() -> str:
    """The innermost line of the call that is traced which is neither PyTorch's nor ours; "" if
    there is none."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not _Tracer.trace.__code__:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("torch", "qstrategies", "contextlib"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def left_names(model: nn.Module, chosen: Collection[str | type[nn.Module]]) -> dict[str, str]:
    """The modules that ``chosen`` means by name or type, with the reason; ``InputError`` for a name
    that none has."""
    known = [name for name, _ in model.named_modules() if name]
    for name in chosen:
        if isinstance(name, str) and name not in known:
            raise unknown("module", name, known)
    types = tuple(kind for kind in chosen if not isinstance(kind, str))
    found = [
        name
        for name, module in model.named_modules()
        if name and (name in chosen or isinstance(module, types))
    ]
    return dict.fromkeys(found, "leave_in_float names it")
