"""Every message to a user says what to do: what is expected, which values are valid, or what to
give, run, install or leave out.

Read from the source: of a message that is put together when it is raised, what is written down.
"""

import ast
import re
from pathlib import Path

from qstrategies.errors import SelfCheckError

PACKAGE = Path(__file__).parent.parent / "qstrategies"
ERRORS = {"InputError", "FileError", "NotFiniteError", "ArgumentTypeError"}
REMEDY = re.compile(
    r"\b(expected|valid|must|at most|at least|only|needs|see|give|leave|take|make|put|keep|say|name|"
    r"rename|run|call|train|use|start|write|export|quantize|remove|mend|restore|wait|ask|fill|load|"
    r"decorate|convert|resize|rewrite|pip install|required|set|subtract)\b",
    re.IGNORECASE,
)
NAMED_REMEDY = re.compile("remedy|advice|hint")  # a part of a message that is one

REASONS = (
    "export/c99/",
    "experiment/stages",
    "runtimes/exact",
    "specification/layers",
    "specification/operators",
    "specification/values",
    "tflite_file",
    "typed_json",
)
"""Where messages are the second half of a sentence: who catches them says what to do."""
HALVES = re.compile(
    r"it |its |a constant|operators that have|sizes has|exactness has|the run is finished"
)
"""How other such messages begin."""
NOTED = ("is not as it was written", "cannot  ...   ... :  ... ", "tracker  ...  is  ... ")
"""What is told as the reason why a run is made again, or ends in the system's own words or in those
of what is missing."""


def written(node):
    """The text of an expression, as far as it is written down."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=value):
            source = ast.unparse(value)
            return f" {source} " if NAMED_REMEDY.search(source) else " ... "
        case ast.JoinedStr(values=values):
            return "".join(map(written, values))
    return ""


def messages():
    """The place and the text of every error that is made for a user."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(REASONS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            text = written(node.args[0]) if name in ERRORS and node.args else ""
            if text and not HALVES.match(text):
                yield f"{place}:{node.lineno}", text


def test_every_message_says_what_to_do():
    found = dict(messages())
    assert len(found) > 200
    silent = {
        place: text
        for place, text in found.items()
        if not REMEDY.search(text) and not NAMED_REMEDY.search(text) and not text.endswith(NOTED)
    }
    assert silent == {}


def test_a_fault_of_the_package_says_whose_it_is_and_how_to_go_round_it():
    assert "leave the layers there in float" in str(SelfCheckError("layer1 differs"))
