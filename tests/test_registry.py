import sys

import pytest

from qstrategies.errors import InputError, check_range
from qstrategies.registry import Registry


def test_a_second_item_of_the_same_name_is_refused():
    registry = Registry("thing", "qstrategies.models")
    registry.register("one")(1)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        registry.register("one")(2)
    assert registry.get("one") == 1


def test_a_cell_that_is_run_again_replaces_what_it_registered(monkeypatch):
    registry, cell = Registry("thing", "qstrategies.models"), {"__name__": "__main__"}
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    for value in (1, 2):
        exec(f"registry.register('one')({value})", cell | {"registry": registry})
    assert registry.get("one") == 2
    with pytest.raises(InputError, match="registered twice, by this session and by "):
        registry.register("one")(3)


@pytest.mark.parametrize("name", ["a/b", "", "a" * 101, "a\nb"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name):
    registry = Registry("thing", "qstrategies.models")
    with pytest.raises(InputError, match="the name of a thing is .*expected a name of at most 100"):
        registry.register(name)(1)


def test_an_unknown_name_is_shown_with_the_closest_and_all_choices():
    registry = Registry("thing", "qstrategies.models")
    registry.register("alpha")(1)
    registry.register("beta")(2)
    with pytest.raises(
        InputError, match=r"unknown thing 'alpa'\. Did you mean 'alpha'\? Valid: alpha, beta"
    ):
        registry.get("alpa")


@pytest.mark.parametrize("value", [float("nan"), -1, 11])
def test_a_value_out_of_range_is_named_with_the_range(value):
    with pytest.raises(
        InputError, match=rf"bits {value!r} is out of range: it must lie in 0\.\.\.10"
    ):
        check_range("bits", value, 0, 10)
