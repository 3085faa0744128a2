"""The pages of the site that are made of code: names, strategies, commands, results."""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import qstrategies as qs
from qstrategies.cli import COMMANDS, commands, parser
from qstrategies.records import GROUPS

DOCS = Path(__file__).parent.parent
TASKS: dict[str, list[str]] = {
    "From a network to a checked file": [
        "quantize",
        "export_onnx",
        "cross_check",
        "certify",
        "save",
        "load",
        "InputError",
    ],
    "Where the loss comes from": ["diagnose"],
    "Other ways in, other forms out": [
        "from_onnx",
        "from_pt2e",
        "export_tflite",
        "export_c",
        "specify",
        "golden_vectors",
    ],
    "In a training loop of your own": ["prepare", "Trainee", "resume"],
    "Strategies compared": ["compare", "summarise", "RunRecord"],
    "Your data": ["datasets", "Dataset", "CalibrationSet", "Task"],
    "Experiments, one by one": [
        "ExperimentConfig",
        "TrainingConfig",
        "QuantizationConfig",
        "Location",
        "Workspace",
        "run_experiment",
        "plan",
        "run_all",
    ],
    "Something of your own, by name": [
        "models",
        "MODELS",
        "DATASETS",
        "strategies",
        "STRATEGIES",
        "Strategy",
        "Option",
        "runtimes",
        "RUNTIMES",
        "Runtime",
        "trackers",
        "schedulers",
    ],
}
"""The public names in the order in which one meets them."""
COMMAND = re.compile(r"`(python experiments/[^`]*|make run|qstrategies compare[^`]*)`")
"""What a page of results says that it is made by."""
MADE_BY = {"comparison": "`make run`"}
"""Where the page itself does not say it, as its text is that of any comparison."""
NO_BREAK = "\N{NON-BREAKING HYPHEN}"


def all_pages() -> dict[str, str]:
    """The generated pages but that of results, by their paths without suffix."""
    found = {"all": overview(), "api": api(), "cli": cli()}
    return found | {f"strategy/{name}": strategy(name) for name in strategy_names()}


def overview() -> str:
    """All names with what each is for, in a line."""
    lines = [
        "# All of qstrategies",
        "",
        "`import qstrategies as qs` offers these names, here in the order in which one meets them; "
        "each leads to [all that is said of it](api.md).",
    ]
    for task, names in TASKS.items():
        lines += ["", f"## {task}", "", "| name | what it is |", "| --- | --- |"]
        lines += [
            f"| [`qs.{name}`](#qstrategies.{name}) | {_cell(_summary(name))} |" for name in names
        ]
    return "\n".join([*lines, ""])


def _summary(name: str) -> str:
    """The first sentence that ``name`` says of itself."""
    item = getattr(qs, name)
    if _is_registry(name):
        return f"All registered as a {item.kind}: `names()`, `get(name)`, `register(name)`."
    text = " ".join(inspect.cleandoc(item.__doc__ or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s|:$", text)[0]


def _is_registry(name: str) -> bool:
    return name.isupper()


def _cell(text: str) -> str:
    """``text`` as a cell of a Markdown table."""
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


def api() -> str:
    """All names with all that their docstrings say."""
    lines = ["# Python", "", "By task; [one page](all.md) names all in a line each.", ""]
    for task, names in TASKS.items():
        lines += [f"## {task}", "", "```{eval-rst}"]
        lines += [line for name in names for line in _directive(name)]
        lines += ["```", ""]
    return "\n".join(lines)


def _directive(name: str) -> list[str]:
    """What lets autodoc describe ``name``."""
    item, full = getattr(qs, name), f"qstrategies.{name}"
    if _is_registry(name):
        return [f".. py:data:: {full}", "", f"   {_summary(name).replace('`', '``')}", ""]
    if inspect.ismodule(item):
        return [f".. automodule:: {full}", f".. py:module:: {full}", "", *_functions(name)][1:]
    if inspect.isclass(item):
        inherited = ["   :inherited-members: object"] if name == "Strategy" else []
        return [f".. autoclass:: {full}", "   :members:", *inherited, ""]
    return [f".. autofunction:: {full}", ""]


def _functions(module: str) -> list[str]:
    """The functions that a public module offers besides its registry."""
    names = getattr(getattr(qs, module), "_HOMES", {})
    documented = inspect.cleandoc(getattr(qs, module).__doc__ or "")
    found = [*documented.splitlines(), ""]
    for name in names:
        found += [f".. autofunction:: qstrategies.{module}.{name}", ""]
    return found


def cli() -> str:
    """Every command with its arguments and options."""
    lines = ["# Command line", "", "What `--help` says of each command, from the same source.", ""]
    for name, sub in commands(parser()).items():
        text = COMMANDS[name][2]
        lines += [f"## qstrategies {name}", "", f"{text[0].upper()}{text[1:]}.", ""]
        for group in sub._action_groups:
            lines += _table(group.title or "", group._group_actions)
        lines += [sub.epilog, ""] if sub.epilog else []
    return "\n".join(lines)


def _table(title: str, actions: Sequence[argparse.Action]) -> list[str]:
    shown = [action for action in actions if action.dest != "help"]
    if not shown:
        return []
    rows = [f"| {_flags(action)} | {_cell(action.help or '')} |" for action in shown]
    return [f"| {title} | |", "| --- | --- |", *rows, ""]


def _flags(action: argparse.Action) -> str:
    takes = action.metavar or action.dest.upper().replace("_", "-")
    if not action.option_strings:
        return f"`{takes}{'...' if action.nargs in ('*', '+') else ''}`"
    return f"`{action.option_strings[-1]}{'' if action.nargs == 0 else f' {takes}'}`"


def strategy_names() -> list[str]:
    """The strategies of this package, in the order of their groups."""
    registry = qs.STRATEGIES
    own = [name for name in registry.names() if registry.origin(name) == qs.__name__]
    return sorted(own, key=lambda name: (GROUPS.index(registry.get(name).group), name))


def strategy(name: str) -> str:
    """A strategy as its file tells of it: what it does, formula, paper, options, and when."""
    kind = qs.STRATEGIES.get(name)
    module = sys.modules[kind.__module__]
    said = [inspect.cleandoc(each.__doc__ or "") for each in (module, kind)]
    lines = [f"# {name}", "", f"{kind.summary[0].upper()}{kind.summary[1:]}.", ""]
    lines += [f"{text}\n" for text in said]
    lines += [f"Paper: <{kind.paper}>\n"] if kind.paper else []
    lines += ["## When", "", _course(kind.course), "", *_advice(name), *_options(kind.options)]
    lines += ["## How to", "", "```", f"qstrategies run {name} --weight-bits 4", "```", ""]
    lines += [
        "Where it was run, its figures are in [which strategy](../strategies.md). The file:\n"
    ]
    source = inspect.getsource(module)
    return "\n".join([*lines, "```python", source.rstrip(), "```", ""])


def _course(course: Any) -> str:
    """In words, how a strategy comes to its model."""
    start = f"the float model of `{course.parent}`" if course.parent else "a fresh model"
    if course.schedule is None:
        return f"After training: {start} is quantized, and nothing is trained."
    how = "with fake quantizers" if course.fake_quantized else "in float"
    begins = "a fresh model" if course.fresh else start
    long = "as long as a float model" if course.schedule == "training" else "for the tuning epochs"
    compared = f", compared with {start}" if course.fresh and course.parent else ""
    return f"In training: {begins} is trained {how}, {long}{compared}."


def _advice(name: str) -> list[str]:
    """What the page on strategies says of ``name``, alone or composed with others."""
    advice = (DOCS / "strategies.md").read_text().partition("<!--")[0]
    points = re.findall(r"^- .*(?:\n  .*)*", advice, re.M)
    named = re.compile(rf"`([^`]*\+)?{name}(\+[^`]*)?`")
    found = [point.replace("](", "](../") for point in points if named.search(point)]
    return [*found, ""] if found else []


def _options(options: Any) -> list[str]:
    if not options:
        return []
    rows = [
        f"| `{name}` | {each.default:g} | {each.low:g} to {each.high:g} | {_cell(each.help)} |"
        for name, each in options.items()
    ]
    head = ["## Options", "", "`--option NAME=VALUE`", ""]
    return [
        *head,
        "| option | default | range | what it is |",
        "| --- | ---: | --- | --- |",
        *rows,
        "",
    ]


def results(names: Iterable[str], folder: Path) -> str:
    """The pages of figures, each with the command that makes it and its date."""
    lines = [
        "# Results",
        "",
        "Every figure comes from a command of this repository. The date is the one that the page "
        "names, else that of its last change.",
        "",
        "| page | made by | date |",
        "| --- | --- | --- |",
    ]
    for name in names:
        text = (folder / f"{name}.md").read_text()
        title = re.search(r"^# (.+)$", text, re.M)
        link = f"[{name}]({name}.md): {title[1] if title else ''}"
        lines.append(f"| {link} | {_made_by(name, text)} | {_date(folder / f'{name}.md')} |")
    return "\n".join([*lines, ""])


def _made_by(name: str, text: str) -> str:
    """The first command that a page of ``text`` names."""
    named = COMMAND.search(text)
    if named is None and name not in MADE_BY:
        raise ValueError(f"{name}.md names no command: if it is no result, name it in build.py")
    return named[0] if named else MADE_BY[name]


def _date(path: Path) -> str:
    named = re.search(r"\bon (\d{4}-\d\d-\d\d)", path.read_text())
    return (named[1] if named else _changed(path)).replace("-", NO_BREAK)


def _changed(path: Path) -> str:
    """When ``path`` was committed last; empty outside of a repository."""
    words = ["git", "log", "-1", "--format=%cs", "--", path.name]
    done = subprocess.run(words, cwd=path.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
