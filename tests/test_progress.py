from collections import Counter

import pytest

from qstrategies import progress as module
from qstrategies.progress import Progress, Work, clock

FLOAT, QAT, RUN = Work("epoch", "no_norm"), Work("QAT epoch", "qat"), Work("run", "no_norm")


@pytest.fixture
def later(monkeypatch):
    """Lets seconds pass."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def shown(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert all(line.endswith("] done") for line in lines)
    return [line.removesuffix("] done").removeprefix("[") for line in lines]


def test_what_is_left_is_what_was_measured_of_such_work(later, capsys):
    progress = Progress()
    progress.left = Counter({FLOAT: 3, RUN: 1, Work("run", "qat"): 2})
    for seconds, work in (
        (10, FLOAT),
        (20, FLOAT),
        (30, FLOAT),
        (60, RUN),
        (30, Work("run", "qat")),
    ):
        later(seconds)
        progress.advance(work, "done")
    later(30)
    progress.advance(Work("run", "qat"), "done")
    assert shown(capsys) == [
        "0:10, more than 0:20 left",  # two more of 10 s, and runs, of which nothing is known
        "0:30, more than 0:15 left",
        "1:00",
        "2:00, 2:00 left",  # runs of another strategy are taken for as long
        "2:30, 0:30 left",  # until one of their own is measured
        "3:00",
    ]  # fmt: skip


def test_before_anything_of_what_is_left_is_measured_no_time_is_shown(later, capsys):
    progress = Progress()
    progress.left = Counter({RUN: 2})
    later(10)
    progress.advance(QAT, "done")
    later(10)
    progress.advance(RUN, "done")
    assert shown(capsys) == ["0:10", "0:20, 0:10 left"]


def test_what_comes_before_the_work_is_no_part_of_its_pace(later, capsys):
    progress = Progress()
    progress.left = Counter({FLOAT: 3})
    later(100)
    progress.begin()
    later(10)
    progress.advance(FLOAT, "done")
    assert shown(capsys) == ["1:50, 0:20 left"]


def test_work_that_nobody_expected_is_measured_and_makes_nothing_negative(later, capsys):
    progress = Progress()
    for _ in range(3):
        later(5)
        progress.advance(RUN, "done")
    assert shown(capsys) == ["0:05", "0:10", "0:15"] and progress.left[RUN] == 0


def test_quiet_is_silent(capsys):
    progress = Progress(quiet=True)
    progress.advance(FLOAT, "epoch")
    progress.close()
    assert capsys.readouterr().err == ""


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 61, 3600)] == ["0:00", "0:59", "1:01", "60:00"]
