"""Options in a TOML file are those of the command line."""

import pytest

from qstrategies.cli import commands, main, parser
from qstrategies.cli.config_file import NOT_IN_A_FILE, words_of
from qstrategies.errors import InputError

SAMPLES = {int: "3", float: "0.5", None: "x"}


def parsed(command, content, tmp_path, typed=()):
    """What a command line ``typed`` comes to with a file of ``content``."""
    path, top = tmp_path / "config.toml", parser()
    path.write_text(content)
    first = top.parse_args([command, *typed])
    return vars(top.parse_args([command, *words_of(path, commands(top)[command], first), *typed]))


@pytest.mark.parametrize("command", ["run", "compare"])
def test_every_option_may_stand_in_the_file(command, tmp_path):
    actions = [
        action
        for action in commands(parser())[command]._actions
        if action.option_strings and action.dest not in NOT_IN_A_FILE
    ]
    assert len(actions) > 30
    for action in actions:
        flag = action.option_strings[-1]
        sample = SAMPLES.get(action.type, "5")
        line, words = f"{flag[2:]} = '{sample}'", [flag, sample]
        if action.nargs == 0:
            line, words = f"{flag[2:]} = true", [flag]
        typed = vars(parser().parse_args([command, *words]))
        assert parsed(command, line, tmp_path) == typed, flag
        assert typed != vars(parser().parse_args([command])), flag


def test_lists_are_what_is_separated_by_commas_or_repeated(tmp_path):
    found = parsed("compare", "bits = [8, 3]\noption = ['a=1', 'b=2']", tmp_path)
    assert found["bits"] == "8,3" and found["option"] == ["a=1", "b=2"]
    assert parsed("compare", "per-tensor = false", tmp_path)["per_tensor"] is False


def test_what_is_typed_wins(tmp_path):
    content = "strategies = ['qat', 'lsq']\nseeds = 2\nlearning-rate = 1e-3\noption = ['a=1']"
    typed = ["clamp", "--seeds", "3", "--option", "a=2"]
    found = parsed("compare", content, tmp_path, typed)
    assert found["strategies"] == ["clamp"] and found["seeds"] == 3
    assert found["learning_rate"] == 1e-3
    assert found["option"] == ["a=1", "a=2"], "of one name the last counts"
    assert parsed("compare", content, tmp_path)["strategies"] == ["qat", "lsq"]
    assert parsed("run", "strategy = 'qat'", tmp_path)["strategy"] == "qat"
    assert parsed("run", "strategy = 'qat'", tmp_path, ["lsq"])["strategy"] == "lsq"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "sead = 1",
            r"config.toml': unknown key 'sead'. Did you mean 'seed'\? Valid: .*weight-bits",
        ),
        ("weight_bits = 4", "Did you mean 'weight-bits'"),
        ("config = 'x'", "unknown key"),
        ("help = true", "unknown key"),
        ("seed = ", "is no TOML: .*expected lines as"),
        ("per-tensor = 1", "per-tensor = 1: expected true or false"),
        ("seed = true", "seed = True: expected a text, a number, or a list of them"),
        ("seed = 2026-01-01", "expected a text, a number"),
        ("[seed]\na = 1", "expected a text, a number"),
        ("seed = [[1]]", "expected a text, a number"),
    ],
)
def test_what_is_no_option_is_refused_by_name(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        parsed("run", content, tmp_path)


def test_a_value_is_checked_as_if_it_were_typed(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("strategy = 'quat'")
    assert main(["run", "--config", str(tmp_path / "config.toml")]) == 2
    assert "unknown strategy 'quat'. Did you mean 'qat'?" in capsys.readouterr().err
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err
