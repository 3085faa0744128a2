"""What a shell is told to complete."""

import re
import shutil
import subprocess

import pytest

from qstrategies.cli import commands, parser
from qstrategies.cli.completion import CLOSED, FROM_REGISTRIES, SHELLS, STRATEGY_NAMES, script
from qstrategies.strategies import STRATEGIES

COMPLETE = """
source /dev/stdin
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_qstrategies
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words):
    """What bash offers for the last of ``words``."""
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "qstrategies", *words],
        input=script("bash"),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_names():
    assert completed("com") == ["compare", "completion"]
    assert completed("run", "qat", "--weight-b") == ["--weight-bits"]
    names = [name for name in STRATEGIES.names() if name.startswith("weight")]
    assert completed("run", "weight") == names and len(names) > 1
    assert "clamp" in completed("compare", "qat", "cla")
    assert completed("run", "qat", "--preset", "po") == ["post"]
    assert completed("compare", "--dataset", "mni") == ["mnist"]


def test_a_name_is_completed_behind_a_plus_too():
    assert completed("run", "cle+ada") == ["cle+adaround"]
    assert completed("compare", "qat", "cle+mse_clip+ada") == ["cle+mse_clip+adaround"]
    assert completed("run", "cle+weight") == [
        f"cle+{name}" for name in STRATEGIES.names() if name.startswith("weight")
    ]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs Debian's package fish")
def test_fish_completes_compositions():
    ask = "source -; complete -C 'qstrategies compare qat cle+ada'"
    done = subprocess.run(
        ["fish", "-c", ask], input=script("fish"), capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "cle+adaround"


def test_zsh_completes_every_one_of_several_names():
    """What "(*)" stands before is completed once; "*" stands before what is repeated."""
    text = script("zsh")
    assert '"(*):' not in text
    assert len(re.findall(r'^  "\*:.*:_qstrategies_composition"$', text, re.M)) == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_the_script(shell):
    text = script(shell)
    for name, sub in commands(parser()).items():
        assert name in text
        for action in sub._actions:
            assert all(flag.lstrip("-") in text for flag in action.option_strings)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_what_is_completed_are_arguments_that_there_are():
    known = {action.dest for sub in commands(parser()).values() for action in sub._actions}
    assert {*STRATEGY_NAMES, *FROM_REGISTRIES, *CLOSED} <= known
