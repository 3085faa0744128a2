"""The command ``completion``: a script that lets a shell complete commands, options and names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from qstrategies.cli.output import show
from qstrategies.cli.values import file, folder
from qstrategies.errors import check_choice
from qstrategies.records import (
    ENGINES,
    FORMS,
    LEVELS,
    OBSERVERS,
    OPTIMIZERS,
    PIXELS,
    PRESETS,
    SATURATIONS,
    SCHEDULES,
)

SHELLS = ("bash", "zsh", "fish")
STRATEGY_NAMES = ("strategy", "strategies")
"""Arguments that are names of strategies, alone or joined by "+"."""
FROM_REGISTRIES = {
    "model": "models",
    "dataset": "datasets",
    "runtime": "runtimes",
    "track": "trackers",
    "scheduler": "schedulers",
}
"""Arguments that are names of what is registered."""
CLOSED: dict[str, Collection[str]] = {
    "preset": PRESETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "levels": LEVELS,
    "observer": OBSERVERS,
    "saturation": SATURATIONS,
    "engine": ENGINES,
    "pixels": PIXELS,
    "form": FORMS,
    "shell": SHELLS,
    "action": ("show",),
}
"""Arguments with a fixed set of values."""
COMPOSITIONS = {
    "bash": """\
_qstrategies_composition() {{
  local before=""
  [[ $1 == *+* ]] && before=${{1%+*}}+
  compgen -P "$before" -W "{names}" -- "${{1##*+}}"
}}
""",
    "zsh": """\
_qstrategies_composition() {{
  compset -P "*+"
  compadd "$@" - {names}
}}
""",
    "fish": """\
function _qstrategies_composition
  set -l before (string match -r "^.*\\+" -- (commandline -ct))
  for name in {names}
    echo "$before$name"
  end
end
""",
}
"""Shell functions that complete what stands behind the last "+"."""


def add_completion(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))
    sub.epilog = (
        "Write it where the shell looks, for example: qstrategies completion bash > "
        "~/.local/share/bash-completion/completions/qstrategies. Names are those of today: write "
        "it again after adding some."
    )


def completion(options: argparse.Namespace) -> int:
    check_choice("shell", options.shell, SHELLS)
    show(script(options.shell))
    return 0


def script(shell: str) -> str:
    """What ``shell`` is to read, with the names that are registered now."""
    import shtab

    from qstrategies.cli import commands, parser

    top = parser()
    for sub in commands(top).values():
        for action in sub._actions:
            _tell(action)
    text: str = shtab.complete(top, shell)
    # shtab's "(*)" lets zsh complete one of several names and none behind it.
    return re.sub(r'^  "\(\*\)::?', '  "*:', text, flags=re.M) if shell == "zsh" else text


def _tell(action: argparse.Action) -> None:
    """Let ``action`` have what shtab reads: choices, or that it is a path."""
    import shtab

    from qstrategies.plugins import REGISTRIES

    if action.dest in STRATEGY_NAMES:
        action.complete = _compositions()  # type: ignore[attr-defined]
    elif action.dest in FROM_REGISTRIES:
        action.choices = REGISTRIES[FROM_REGISTRIES[action.dest]].names()
    elif action.dest in CLOSED:
        action.choices = list(CLOSED[action.dest])
    elif action.type is folder:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.type is file:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _compositions() -> dict[str, str | dict[str, str]]:
    """What completes names of strategies that are joined by "+", in the form that shtab reads."""
    from qstrategies.plugins import REGISTRIES

    names = " ".join(REGISTRIES["strategies"].names())
    called = "_qstrategies_composition"
    functions = {shell: text.format(names=names) for shell, text in COMPOSITIONS.items()}
    return {"bash": called, "zsh": called, "fish": f"({called})", "preamble": functions}
