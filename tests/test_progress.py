import re

from qstrategies.progress import Progress, clock


def test_remaining_time_falls_to_nothing_and_every_message_is_a_line_of_its_own(capsys):
    progress = Progress(300)
    for _ in range(3):
        progress.advance(100, "epoch")
    progress.close()
    left = [
        int(m) * 60 + int(s)
        for m, s in re.findall(r"(\d+):(\d\d) left\] epoch\n", capsys.readouterr().err)
    ]
    assert len(left) == 3 and left == sorted(left, reverse=True) and left[-1] == 0


def test_quiet_is_silent(capsys):
    progress = Progress(10, quiet=True)
    progress.advance(5, "epoch")
    progress.close()
    assert capsys.readouterr().err == ""


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 61, 3600)] == ["0:00", "0:59", "1:01", "60:00"]
