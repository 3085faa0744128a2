"""The tables of networks, of the road and of rivals, on networks of a few layers."""

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qstrategies as qs

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import networks
import road
import workers
import zoo

SHAPE = (3, 16, 16)


class Small(nn.Module):
    """A convolution and a head of zeros, as transformers have it before training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)
        )
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x):
        return self.layers(x)


def only_the_first(cross_check, exported, pixels, runtimes):
    """The others take seconds to start."""
    return cross_check(exported, pixels, runtimes[:1])


def failing(error):
    """A function of any arguments that raises ``error``."""

    def function(*_):
        raise error

    return function


@pytest.fixture(scope="module")
def small():
    """The network's place in the list, which builds ``Small``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.Network, "build", lambda each: zoo.with_statistics(Small(), each.shape))
        patch.setattr(networks, "ONNX_RUNTIME", ("onnxruntime-all",))
        patch.setattr(networks.qs, "cross_check", functools.partial(only_the_first, qs.cross_check))
        yield zoo.Network("small", shape=SHAPE)


@pytest.fixture(scope="module")
def found(small, tmp_path_factory):
    """As it is read back."""
    measured = networks.measured(small, 8, tmp_path_factory.mktemp("networks"))
    return json.loads(json.dumps(measured))


def test_at_least_thirty_networks_of_each_house_have_names_of_their_own():
    names = [each.name for each in (*zoo.TORCHVISION, *zoo.TIMM)]
    assert len(set(names)) == len(names)
    assert len(zoo.TORCHVISION) >= 30 and len(zoo.TIMM) >= 30


def test_a_network_is_measured_beside_quantize_static(found):
    assert set(found["equal"]) <= {"all", "-"} and found["equal"][:2] == ["all", "all"]
    assert found["proven"] == list(networks.PROOFS.values()) and found["islands"] == {}
    assert found["free"] > 20 and found["static"]["decibels"] > 20, "of the same images"
    text = networks.page([found], 8)
    assert "1 of 1 networks are accepted" in text and "\n| small | - | all | all |" in text
    cells = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert cells == {len(networks.COLUMNS) + 1}


def test_a_network_of_integers_names_what_is_not_proven_of_it(found):
    assert found["unproven"] is None
    reason = {"proven": ["without VNNI"], "unproven": "add.sum: values of 24.3 bits"}
    assert "| without VNNI (add.sum: values of 24.3 bits) |" in networks.row(found | reason)
    assert "| without VNNI |" in networks.row(
        found | reason | {"unproven": None, "islands": {"a": 1}}
    )


STOPS = {
    "refused": (qs.InputError("it is odd | and long\nand more"), "refused: it is odd / and long"),
    "fault": (RuntimeError("no kernel"), "fault: RuntimeError: no kernel"),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_refusal_and_a_fault_are_told_apart_in_one_line(name, small, monkeypatch, tmp_path):
    error, expected = STOPS[name]
    monkeypatch.setattr(networks, "_figures", failing(error))
    found = networks.measured(small, 8, tmp_path)
    assert expected in networks.row(found) and "0 of 1" in networks.page([found], 8)
    assert networks.row(found).count("|") == len(networks.COLUMNS) + 1


def test_where_quantize_static_fails_its_reason_stands_below_the_table(found, monkeypatch):
    monkeypatch.setattr(networks, "static_file", failing(ValueError("no such operator")))
    static = networks._static(nn.Identity(), *torch.zeros(3, 1), Path())
    text = networks.page([found | {"static": static}], 8)
    assert text.endswith("- small: ValueError: no such operator\n") and " | - | " in text


def test_statistics_are_those_of_the_images_alone_and_no_head_stays_0():
    model = zoo.with_statistics(Small(), SHAPE)
    with torch.no_grad():
        y = model.layers[0](zoo.random_images(64, SHAPE))
    norm = model.layers[1]
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), atol=0.05, rtol=0)
    torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)), atol=0, rtol=0.2)
    assert model.layers[-1].weight.any()


def test_what_runs_a_model_over_images_is_left_out_of_a_tools_time():
    def busy(_self, rounds):
        for _ in range(rounds):
            torch.rand(1000).sum()

    owner = type("Owner", (), {"run": busy})
    whole = workers.seconds(lambda: owner().run(3000))
    rest = workers.seconds_without(owner, "run", lambda: owner().run(3000))
    assert rest < whole / 2 and owner.run is busy


def test_tools_take_turns_in_processes_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(road, "BESIDE_OTHERS", ("cnn",))
    monkeypatch.setattr(road, "ROUNDS_OF_RIVALS", 1)
    monkeypatch.setattr(road, "TOOLS", {"ours": workers.ours})
    (line,) = road.rival_rows(64, sys.executable)
    assert line.startswith("| cnn | 0.") and line.endswith(" | - |")
