"""What users give to public functions is held against their hints before any work begins."""

import inspect
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import qstrategies as qs
from qstrategies.arguments import _fits, _members, fitting, public
from qstrategies.errors import InputError


class Alien:
    """Something that nobody asks for."""


FUNCTIONS = {
    name: getattr(qs, name) for name in qs.__all__ if inspect.isfunction(getattr(qs, name))
}
CHECKED = [
    (function, name)
    for function in FUNCTIONS.values()
    for name, hint in get_type_hints(function).items()
    if name != "return" and not any(_fits(member, Alien()) for member in _members(hint))
]


@pytest.mark.parametrize(
    ("function", "parameter"), CHECKED, ids=[f"{f.__name__}-{name}" for f, name in CHECKED]
)
def test_every_public_function_refuses_what_its_hints_do_not_say(function, parameter):
    parameters = inspect.signature(function).parameters
    needed = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    given = {name: Alien() for name in [*needed, parameter] if parameters[name].kind not in kinds}
    first = next(name for name in parameters if (function, name) in CHECKED and name in given)
    with pytest.raises(InputError, match=f"^{first} of {function.__name__} is an Alien: expected"):
        function(**given)


def test_all_that_has_hints_to_check_is_among_them():
    assert {"quantize", "prepare", "save", "load", "certify", "cross_check", "export_onnx"} <= {
        function.__name__ for function, _ in CHECKED
    }
    assert len(CHECKED) > 60


@public
def taking(path: Path | str, bits: int = 8, names: tuple[str, ...] = ()) -> Any:
    return path, bits, names


def test_paths_may_be_texts_and_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert taking("~/model.onnx")[0] == Path("/home/somebody/model.onnx")
    assert taking(Path("~") / "model.onnx")[0] == Path("/home/somebody/model.onnx")
    assert taking("a~b")[0] == Path("a~b")
    assert qs.Location("~/data").root == Path("/home/somebody/data")
    assert qs.Workspace("~/runs").stages == Path("/home/somebody/runs/stages")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": ""}, "path of taking is empty: expected a path"),
        ({"path": "a\0b"}, "path of taking has a NUL character"),
        ({"path": None}, "path of taking is None: expected a path"),
        ({"path": ["a"]}, "path of taking is a list of str: expected a path"),
        ({"path": "a", "bits": "4"}, "bits of taking is '4': expected a whole number"),
        ({"path": "a", "bits": 4.0}, "bits of taking is 4.0: expected a whole number"),
        ({"path": "a", "bits": True}, "bits of taking is True: expected a whole number"),
        ({"path": "a", "bits": int}, "bits of taking is the class int: expected a whole number"),
        ({"path": "a", "names": "conv"}, "names of taking is 'conv': expected a list, each a text"),
        ({"path": "a", "names": (1,)}, "names of taking is a tuple of int: expected a list"),
    ],
)
def test_the_message_names_argument_value_and_what_is_expected(arguments, said):
    with pytest.raises(InputError) as error:
        taking(**arguments)
    assert str(error.value).startswith(said)


def test_what_python_refuses_it_says_itself():
    missing = r"taking\(\) missing 1 required positional argument"
    with pytest.raises(TypeError, match=missing) as found:
        taking()
    assert found.value.__context__ is None, "one error, not one during another"


def test_numbers_of_numpy_become_plain_ones():
    found = qs.QuantizationConfig(weight_bits=np.int64(4)).weight_bits
    assert found == 4 and type(found) is int
    rate = fitting(float, np.float32(0.5), "it")
    assert rate == 0.5 and type(rate) is float
    with pytest.raises(InputError, match="learning_rate of TrainingConfig is '1e-3'"):
        qs.TrainingConfig(learning_rate="1e-3")


def test_a_tensor_is_called_one():
    with pytest.raises(InputError, match="it is 3: expected a torch.Tensor or None"):
        fitting(torch.Tensor | None, 3, "it")
