"""A guest in the user's process: nothing global is left changed, threads take turns, errors and
rounds leave nothing behind."""

import contextlib
import copy
import gc
import importlib
import importlib.util
import inspect
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
import torch
from conftest import small
from matplotlib import pyplot as plt
from PIL import Image
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import qstrategies as qs
from qstrategies import guest
from qstrategies.diagnosis.run import diagnose_run
from qstrategies.errors import InputError
from qstrategies.execution.predict import predict
from qstrategies.execution.verify import verify
from qstrategies.export.onnx_export import export_float_onnx
from qstrategies.records import QuantizationConfig
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

SHAPE = (4, 8, 8)
DATA = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(0))
PIXELS = (DATA * 255).to(torch.uint8)
RELU = """<ir_version: 9, opset_import: ["": 17]>
g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) { y = Relu(x) }"""
QUICK = ["onnxruntime-all", "opencv-dnn"]


class Residual(nn.Module):
    """Its addition is one of the kernels that ask for the engine whenever they run."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 1),
        )

    def forward(self, x):
        y = torch.relu(self.norm(self.a(x)))
        return y + self.b(y)


class Failing(nn.Module):
    """Raises ``error`` when it is called for the ``count``-th time."""

    def __init__(self, error, count):
        super().__init__()
        self.error, self.count, self.calls = error, count, 0

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.count:
            raise self.error
        return x


class Opaque(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = Residual().train()  # its mode is the user's, too


def quantized(**settings):
    return qs.quantize(
        MODEL, [DATA], DATA[:2], input_scale=1 / 255, config=QuantizationConfig(**settings)
    )


def random_states():
    algorithm, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (algorithm, keys.tolist(), *rest), random.getstate()


def state():
    """All that is global and that a call could change without a word."""
    loggers = {
        name: found
        for name, found in logging.root.manager.loggerDict.items()
        if isinstance(found, logging.Logger)
    }
    loggers = {
        name: found
        for name, found in loggers.items()
        if found.level or found.handlers or found.disabled
    }
    return {
        "engine": torch.backends.quantized.engine,
        "randomness": random_states(),
        "environment": dict(os.environ),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "log levels": {
            name: (found.level, list(found.handlers), found.disabled)
            for name, found in loggers.items()
        },
        "root logger": (
            logging.root.level,
            list(logging.root.handlers),
            logging.root.manager.disable,
        ),
        "threads": (
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            threading.active_count(),
        ),
        "torch": (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        ),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "modules": (
            nn.Module.__call__,
            nn.Module.__getattr__,
            torch.Tensor.__add__,
            torch.nn.functional.relu,
        ),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "pictures": (matplotlib.get_backend(), list(plt.get_fignums())),
        "interpreter": (
            Path.cwd(),
            list(sys.path),
            sys.excepthook,
            gc.isenabled(),
            np.geterr(),
            sys.getrecursionlimit(),
        ),
    }


@pytest.fixture
def uncommon(monkeypatch):
    """Settings that no code of the package would leave by chance."""
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    torch.backends.quantized.engine = "onednn"
    plt.switch_backend("svg")
    monkeypatch.setenv("UNCOMMON", "1")
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG + 1)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.filterwarnings("always", message="uncommon")
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    torch.backends.quantized.engine = engine
    assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def made(tmp_path_factory, location):
    """What the calls work on: a quantized model, its files, and the folder of a short run."""
    folder = tmp_path_factory.mktemp("made")
    model, workspace = quantized(), qs.Workspace(folder / "runs", location)
    Image.new("L", (28, 28)).save(folder / "black.png")
    onnx.save(onnx.parser.parse_model(RELU), folder / "relu.onnx")
    config = small("no_norm", checks="quick")
    qs.run_all([config], workspace)
    exported = qs.export_onnx(model, folder / "model.onnx")
    qs.cross_check(exported, PIXELS)  # some runtimes keep threads from their first file on
    return {
        "folder": folder,
        "model": model,
        "exported": exported,
        "workspace": workspace,
        "config": config,
        "run": folder / "runs" / config.run_id,
        "location": location,
        "cnn": qs.MODELS.get("cnn")(),
        "data": first_batches(workspace),
        "pt2e": converted(),
    }


def converted():
    """What torchao's PT2E makes of ``MODEL``; None where that is not installed."""
    if importlib.util.find_spec("torchao") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchao, about what it registers
        pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        net, sizes = copy.deepcopy(MODEL).eval(), ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(net, (DATA,), dynamic_shapes=sizes, strict=True)
        observed = pt2e.prepare_pt2e(program.module(), quantizer)
        observed(DATA)
        return pt2e.convert_pt2e(observed)


def from_pt2e(made):
    if made["pt2e"] is None:
        pytest.skip("torchao is not installed: pip install 'qstrategies[pt2e]'")
    return qs.from_pt2e(made["pt2e"], [DATA])


def export_tflite(made):
    pytest.importorskip("tflite", reason="the package tflite is not installed")
    return qs.export_tflite(made["model"], made["folder"] / "model.tflite")


def first_batches(workspace):
    splits = workspace.dataset("small_mnist").splits
    return {name: split.first(64) for name, split in splits.items()}


CALLS = {
    "quantize": lambda m: quantized(),
    "export_onnx": lambda m: qs.export_onnx(m["model"], m["folder"] / "again.onnx"),
    "cross_check": lambda m: qs.cross_check(m["exported"], PIXELS, QUICK),
    "certify": lambda m: qs.certify(m["exported"][0].path),
    "prepare": lambda m: qs.prepare(MODEL, DATA[:2], "clamp"),
    "resume": lambda m: qs.resume(
        MODEL, DATA[:2], "qat", qs.prepare(MODEL, DATA[:2], "qat").model.state_dict()
    ),
    "save": lambda m: qs.save(m["model"], m["folder"] / "model.safetensors"),
    "load": lambda m: qs.load(saved(m)),
    "diagnose": lambda m: qs.diagnose(MODEL, [DATA, DATA], DATA),
    "run_experiment": lambda m: qs.run_experiment(m["config"], m["workspace"]),
    "plan": lambda m: qs.plan(m["config"], ["no_norm", "clamp"], [8, 4], [0]),
    "run_all": lambda m: qs.run_all([m["config"]], m["workspace"]),
    "compare": lambda m: qs.compare(
        m["cnn"],
        "small_mnist",
        ["no_norm"],
        bits=[8],
        out=m["folder"] / "compared",
        config=m["config"],
        location=m["location"],
        quiet=True,
    ),
    "export_c": lambda m: qs.export_c(m["model"], m["folder"] / "c"),
    "export_tflite": export_tflite,
    "specify": lambda m: qs.specify(m["exported"][0].path),
    "golden_vectors": lambda m: qs.golden_vectors(m["exported"][0].path),
    "from_pt2e": from_pt2e,
    "from_onnx": lambda m: qs.from_onnx(m["folder"] / "relu.onnx"),
    "summarise": lambda m: qs.summarise(qs.run_all([m["config"]], m["workspace"])),
}
MORE = {
    "int8": lambda m: m["model"].int8("qnnpack"),
    "an int8 module": lambda m: m["model"].int8("fbgemm")(PIXELS),
    "reference": lambda m: m["model"].reference(),
    "export_float_onnx": lambda m: export_float_onnx(MODEL, SHAPE, m["folder"] / "float.onnx"),
    "train": lambda m: train(
        Trainee(m["cnn"], qs.STRATEGIES.get("clamp")()), m["data"], m["config"].training, seed=3
    ),
    "a foreign loop": lambda m: trained_elsewhere("qat"),
    "diagnose_run": lambda m: diagnose_run(m["run"], m["location"], images=32),
    "verify": lambda m: verify(m["run"] / "model.onnx", m["location"], QUICK),
    "predict": lambda m: predict(m["run"] / "model.onnx", [m["folder"] / "black.png"]),
}


def test_every_public_function_is_called_here():
    assert {name for name in qs.__all__ if inspect.isfunction(getattr(qs, name))} == set(CALLS)


@pytest.mark.parametrize("call", [*CALLS.values(), *MORE.values()], ids=[*CALLS, *MORE])
def test_the_global_state_is_as_it_was(call, made, uncommon):
    before, model = state(), copy.deepcopy(MODEL.state_dict())
    call(made)
    after = state()
    assert [key for key in before if before[key] != after[key]] == []
    assert all(module.training and not module._forward_hooks for module in MODEL.modules())
    assert all(torch.equal(value, model[name]) for name, value in MODEL.state_dict().items())


def saved(made):
    path = made["folder"] / "saved.safetensors"
    qs.save(made["model"], path)
    return path


def trained_elsewhere(strategy):
    trainee = qs.prepare(MODEL, DATA[:2], strategy)
    optimizer = torch.optim.SGD(trainee.parameter_groups(1e-3))
    trainee.model.train()
    trainee.model(DATA).sum().backward()
    optimizer.step()
    trainee.after_step()
    return trainee.finish([DATA])


def interrupted_batches():
    yield DATA
    raise KeyboardInterrupt


ERRORS = {
    "cannot be traced": (InputError, lambda m: qs.quantize(Opaque(), [DATA], DATA[:2])),
    "an error in tracing": (
        InputError,
        lambda m: qs.quantize(Failing(OSError("no"), 1), [DATA], DATA[:2]),
    ),
    "Ctrl-C in tracing": (
        KeyboardInterrupt,
        lambda m: qs.quantize(Failing(KeyboardInterrupt(), 1), [DATA], DATA[:2]),
    ),
    "Ctrl-C in calibration": (
        KeyboardInterrupt,
        lambda m: qs.quantize(MODEL, interrupted_batches(), DATA[:2]),
    ),
    "a bad input": (InputError, lambda m: m["model"].int8("qnnpack")(PIXELS[:, :3])),
    "an export that fails": (
        OSError,
        lambda m: qs.export_onnx(m["model"], m["folder"] / "black.png" / "model.onnx"),
    ),
    "a float model that cannot be exported": (
        Exception,
        lambda m: export_float_onnx(Opaque(), SHAPE, m["folder"] / "no.onnx"),
    ),
    "Ctrl-C in training": (
        KeyboardInterrupt,
        lambda m: train(Trainee(m["cnn"], Interrupting()), m["data"], m["config"].training, seed=3),
    ),
}


class Interrupting(qs.Strategy):
    summary = "raises at the first step"

    def after_step(self, model, step):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "call"), ERRORS.values(), ids=ERRORS)
def test_after_an_error_all_is_as_it_was_and_works(kind, call, made, uncommon):
    before = state()
    with pytest.raises(kind):
        call(made)
    after = state()
    assert [key for key in before if before[key] != after[key]] == []
    assert torch.equal(quantized().int8()(PIXELS), made["model"].int8()(PIXELS))
    with ThreadPoolExecutor(1) as other:  # the lock is free
        assert other.submit(guest.guest(lambda: 1)).result(timeout=60) == 1


def whole_way(folder, engine):
    """The bytes of the files, the logits of an int8 module, and the rows that are equal, of a model
    of one's own."""
    folder.mkdir()
    model = quantized(engine=engine)
    exported = qs.export_onnx(model, folder / "model.onnx")
    checks = qs.cross_check(exported, PIXELS, ["onnxruntime-all"]).checks
    return (
        [file.sha256 for file in exported],
        model.int8()(PIXELS).tolist(),
        [(check.runtime, check.rows_equal) for check in checks],
    )


def test_two_threads_at_once_get_the_results_of_one(tmp_path):
    alone = [whole_way(tmp_path / f"alone {engine}", engine) for engine in ("x86", "qnnpack")]
    with ThreadPoolExecutor(2) as threads:
        jobs = [
            threads.submit(whole_way, tmp_path / f"{number}", ("x86", "qnnpack")[number % 2])
            for number in range(4)
        ]
    assert [job.result() for job in jobs] == alone * 2


def test_an_int8_module_runs_with_its_own_engine_whatever_is_selected():
    module = quantized().int8("x86")
    expected = module(PIXELS)
    with guest.selected_engine("qnnpack"):
        assert torch.equal(module(PIXELS), expected) and torch.equal(
            copy.deepcopy(module)(PIXELS), expected
        )


WARNED = """\
import sys, warnings
from pathlib import Path
import torch
from torch import nn
import qstrategies as qs
from qstrategies.export.onnx_export import export_float_onnx

class Old(nn.Module):
    def forward(self, x):
        warnings.warn("the user's", DeprecationWarning)
        return torch.softmax(x, 1)

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Old(), nn.Conv2d(4, 2, 3)).eval()
x = torch.rand(4, 3, 8, 8)

def said(call, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments)
    print(sorted({f"{each.category.__name__}: {each.message}" for each in caught}))
    return result

quantized = said(qs.quantize, model, [x], x)
said(export_float_onnx, model, (3, 8, 8), Path(sys.argv[1]))
module = said(quantized.int8, "x86")
said(module, x)
said(qs.export_onnx, quantized, sys.argv[1])
"""


def test_the_users_deprecations_are_said_and_pytorchs_own_are_not(tmp_path):
    """In a process of its own, since PyTorch says some only once. The softmax stays in float, so
    that PyTorch's exporter has its say."""
    script = [sys.executable, "-c", WARNED, str(tmp_path / "model.onnx")]
    done = subprocess.run(script, capture_output=True, text=True)
    users = str(["DeprecationWarning: the user's"])
    assert done.stdout.splitlines() == [users, users, "[]", "[]", "[]"], done.stderr


def test_what_python_says_once_a_place_it_says_once_around_int8_modules():
    module = quantized().int8()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("the user's", DeprecationWarning, stacklevel=1)
            module(PIXELS)
    assert [str(each.message) for each in caught] == ["the user's"]


def live(kind):
    gc.collect()
    return sum(issubclass(type(found), kind) for found in gc.get_objects())


def test_rounds_leave_neither_graphs_nor_shapes(tmp_path):
    """An island takes torch's exporter, which keeps more than all else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 3, 1)).eval()

    def one_round():
        made = qs.quantize(model, [DATA], DATA)
        qs.cross_check(qs.export_onnx(made, tmp_path / "model.onnx"), PIXELS, ["onnxruntime-all"])

    one_round()
    before = live(fx.GraphModule), live(ShapeEnv)
    for _ in range(3):
        one_round()
    assert live(fx.GraphModule) <= before[0] and live(ShapeEnv) <= before[1]


@contextlib.contextmanager
def in_double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, in_double])
def test_what_the_user_has_set_for_all_numbers_changes_nothing(around):
    """Around the calls, and around what gave the model and the data."""
    torch.manual_seed(0)
    plain = Residual().eval()
    with around():
        model, data = copy.deepcopy(plain), DATA.clone()
        strategy = qs.STRATEGIES.get("brecq")(block_steps=2)
        quantized = qs.quantize(model, [data], data, strategy=strategy)
        trainee = qs.prepare(model, data, "qat")
    expected = qs.quantize(plain, [DATA], DATA, strategy=strategy)
    assert torch.equal(quantized.int8()(DATA), expected.int8()(DATA))
    outputs = trainee.model(DATA)
    outputs.sum().backward()
    with around():
        dtype = torch.get_default_dtype()
        assert trainee.finish().int8()(DATA).shape == outputs.shape
        assert torch.get_default_dtype() == dtype
