"""What the site is made of; that it builds and what it looks like is checked by ``.ci/run``."""

import importlib.util
import sys
from pathlib import Path

import pytest
from conftest import OWN_STRATEGIES

import qstrategies as qs
from qstrategies.cli import commands, parser

SITE = Path(__file__).parent.parent / "docs" / "site"


@pytest.fixture(scope="module")
def pages():
    found = importlib.util.spec_from_file_location("pages", SITE / "pages.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_public_name_is_met_once(pages):
    met = [name for names in pages.TASKS.values() for name in names]
    assert sorted(met) == sorted(qs.__all__)
    assert all(f"| [`qs.{name}`]" in pages.overview() for name in met)


def test_every_name_says_what_it_is_in_a_sentence(pages):
    for name in qs.__all__:
        assert len(pages._summary(name)) > 15, name


def test_every_option_of_every_command_is_on_the_page(pages):
    page = pages.cli()
    for name, sub in commands(parser()).items():
        part = page.partition(f"## qstrategies {name}\n")[2].partition("\n## ")[0]
        for action in sub._actions:
            if action.dest != "help":
                assert pages._flags(action) in part, (name, action.dest)


def test_every_strategy_has_a_page_with_its_paper_options_and_file(pages):
    assert set(pages.strategy_names()) == set(OWN_STRATEGIES)
    for name in pages.strategy_names():
        page, kind = pages.strategy(name), qs.STRATEGIES.get(name)
        assert page.startswith(f"# {name}\n") and kind.paper in page
        assert all(f"| `{option}` |" in page for option in kind.options)
        assert Path(sys.modules[kind.__module__].__file__).read_text().strip() in page


def test_a_strategy_has_the_advice_that_names_it(pages):
    said = " ".join(pages._advice("cle"))
    assert "equalize first" in said and "`cle+lsq`" in said and "](../comparison.md)" in said
    assert pages._advice("clamp") == []


def test_results_name_a_command_and_a_date(pages, tmp_path):
    text = "# Title\n\nWritten by `python experiments/x.py --y 1` on 2026-01-02: ...\n"
    (tmp_path / "x.md").write_text(text)
    row = pages.results(["x"], tmp_path).splitlines()[-1].replace(pages.NO_BREAK, "-")
    assert row == "| [x](x.md): Title | `python experiments/x.py --y 1` | 2026-01-02 |"
