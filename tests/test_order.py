"""Reports of many strategies: grouped, sorted, and folded without losing a row."""

import dataclasses

import numpy as np
import pytest
from test_html_report import make_record

from qstrategies.evidence import conclude
from qstrategies.records import GROUPS
from qstrategies.records.predictions import Predictions, SplitPredictions
from qstrategies.report import write
from qstrategies.report.grid import Grid
from qstrategies.report.order import MANY, Order
from qstrategies.strategies import STRATEGIES

LABELS = np.arange(2000) % 10


def workspace(folder, wrong):
    """Records with predictions that are wrong on so many images, by strategy, at 8 and 4 bits."""
    records = []
    for name, count in wrong.items():
        for bits in (8, 4):
            found = np.where(np.arange(2000) < count, LABELS + 1, LABELS)
            split = SplitPredictions(LABELS, LABELS, found)
            record = make_record(name, bits, 0, 1 - count / 2000)
            record = dataclasses.replace(record, group=STRATEGIES.get(name).group)
            if name != "no_norm":
                record = dataclasses.replace(record, histograms=())  # pictures take long to draw
            Predictions(split, split).save(folder / record.config.run_id)
            records.append(record)
    return records


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    wrong = dict.fromkeys(STRATEGIES.names(), 200) | {"no_norm": 190, "adaround": 20, "lsq": 150}
    records = workspace(folder, wrong)
    return records, folder, conclude(records, folder)


def test_every_strategy_has_a_group_that_is_listed():
    names = [*STRATEGIES.names(), "cle+adaround", "weight_norm+lsq"]
    assert {STRATEGIES.get(name).group for name in names} == set(GROUPS)
    assert STRATEGIES.get("cle+adaround").group == "post-training"


def test_leaders_are_what_a_decision_needs(many):
    records, _, (found, advice) = many
    order = Order.of(records, found, advice)
    assert {"no_norm", "adaround", "lsq", advice.chosen.strategy} <= order.leaders
    assert len(order.leaders) <= 2 * len(GROUPS)
    groups = list(dict.fromkeys(order.groups.values()))
    assert groups == list(GROUPS) and next(iter(order.groups)) == "no_norm"
    trained = [name for name, group in order.groups.items() if group == "post-training"]
    assert trained[0] == "adaround", "the most accurate of its group is the first"


def test_a_folded_table_has_all_rows(many):
    records, folder, (found, advice) = many
    order = Order.of(records, found, advice)
    whole = Order.of(records, found, advice, everything=True)
    for short, long in zip(
        write.grids(records, folder, found, order)[:3],
        write.grids(records, folder, found, whole)[:3],
        strict=True,
    ):
        assert len(short.rows) < MANY * 2 + 2 and not long.more
        assert sorted([*short.rows, *short.more]) == sorted(long.rows)
        assert short.headers[:2] == ["strategy", "group"]
        folded = {row[0] for row in short.more}
        assert short.more_title.startswith(f"{len(folded)} more strategies") and folded
        assert not folded & order.leaders


def test_every_form_folds_and_says_so(many):
    records, folder, conclusion = many
    write.write_report(records, folder, *conclusion)
    count = len(STRATEGIES.names()) - len(Order.of(records, *conclusion).leaders)
    title = f"{count} more strategies, none shown to be better"
    text = write.as_text(records, folder, *conclusion)
    assert text.count(f"{title}; --all shows them") == 2 and "quant_noise" not in text
    everything = write.as_text(records, folder, *conclusion, everything=True)
    assert title not in everything and "quant_noise" in everything
    for name in ("report.html", "summary.md"):
        content = (folder / name).read_text()
        assert content.count(f"<summary>{title}</summary>") == 3 and "quant_noise" in content
    page = (folder / "report.html").read_text()
    assert page.count('class="bar"') == len(records), "every row has its bar"
    lines = (folder / "summary.csv").read_text().splitlines()
    assert len(lines) == len(records) + 2 and '"learned steps"' in lines[-1] + "".join(lines)


def test_few_strategies_are_shown_as_they_ran(tmp_path):
    records = workspace(tmp_path, {"qat": 20, "no_norm": 10})
    order = Order.of(records, *conclude(records, tmp_path))
    grid = Grid("t", ["strategy"], [["qat"], ["no_norm"]])
    assert order.arranged(grid, ["qat", "no_norm"]) is grid and order.closed(grid) is grid
    assert order.led(records) == order.sorted(records) == records
