"""Dependencies point one way, and the package starts fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qstrategies"
LAYERS = [
    {"errors", "text"},
    {"arguments", "files", "typed_json"},
    {"registry", "records", "guest", "sandbox", "source_code", "pixels", "progress", "tflite_file"},
    {"tasks"},
    {"operators"},
    {"quantization"},
    {"datasets", "models", "strategies", "runtimes", "schedulers", "trackers"},
    {"evaluation", "onnx_file", "report"},
    {"certificate", "onnx_model"},
    {"specification"},
    {"training", "export", "plugins"},
    {"execution"},
    {"experiment"},
    {"evidence", "diagnosis"},
    {"whole_comparison", "pt2e"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SAME_LAYER = {  # arrows inside a layer that the design allows
    ("datasets", "report"),
}  # fmt: skip


def imports():
    for path in PACKAGE.rglob("*.py"):
        unit = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if unit == "__init__":
            continue
        tree = ast.parse(path.read_text())
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("qstrategies")
                and id(node) not in typing_only
            ):
                parts = node.module.split(".")
                targets = parts[1:2] or [
                    alias.name for alias in node.names if alias.name != "__version__"
                ]
                for target in targets:
                    yield unit, target, str(path)


def test_every_module_has_a_layer():
    units = {
        path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")
    } - {"__init__"}
    assert units == set(RANK)


def test_imports_point_downwards():
    wrong = [
        f"{path}: {unit} imports {target}"
        for unit, target, path in imports()
        if unit != target and RANK[target] >= RANK[unit] and (unit, target) not in SAME_LAYER
    ]
    assert wrong == []


def imported_names(path):
    """What ``path`` imports anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users_of(*modules):
    """The files of the package that import one of ``modules``, or a part of it."""
    parts = tuple(f"{module}." for module in modules)
    found = {
        path: [name for name in imported_names(path) if f"{name}.".startswith(parts)]
        for path in PACKAGE.rglob("*.py")
    }
    return {path.relative_to(PACKAGE).as_posix() for path, names in found.items() if names}


def test_only_the_observers_import_torch_ao_which_will_be_removed():
    assert users_of("torch.ao", "torchao") == {"quantization/observers.py"}


def test_only_one_file_imports_torchvision_which_is_an_extra():
    assert users_of("torchvision") == {"datasets/torchvision_import.py"}


def test_nothing_is_patched_and_nothing_private_of_torch_is_imported():
    assert users_of("unittest.mock", "mock") == set()
    private = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imported_names(path)
        if name.split(".")[0] in ("torch", "onnx", "onnx_ir")
        and any(part.startswith("_") for part in name.split("."))
    }
    assert private == set()


def test_report_imports_records_only():
    allowed = {"report", "arguments", "errors", "records", "files", "text", "typed_json"}
    assert {target for unit, target, _ in imports() if unit == "report"} <= allowed


def test_strategies_are_files_of_at_most_60_lines():
    files = [
        path
        for path in (PACKAGE / "strategies").glob("*.py")
        if path.name not in ("__init__.py", "base.py", "composed.py")
    ]
    assert len(files) >= 8
    assert {
        path.name: len(path.read_text().splitlines())
        for path in files
        if len(path.read_text().splitlines()) > 60
    } == {}


@pytest.mark.parametrize(
    "code",
    [
        "import qstrategies",
        "import qstrategies.cli as c; c.parser().format_help()",
        "import qstrategies.records",
    ],
)
def test_no_torch_is_loaded_by(code):
    script = (
        f"{code}; import sys; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', "
        "'onnxruntime', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
