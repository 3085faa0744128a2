"""What a package is expected to say of itself, said once."""

import configparser
import re
from pathlib import Path

import qstrategies

ROOT = Path(__file__).parent.parent


def test_the_citation_names_this_version_and_licence():
    citation = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert citation["version"] == qstrategies.__version__
    assert citation["license"] == setup["metadata"]["license"]
    assert citation["title"].strip('"').startswith(f"{setup['metadata']['name']}: ")


def test_the_version_is_a_semantic_one():
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", qstrategies.__version__)


def test_what_a_package_holds_besides_code_is_declared():
    """A file that package_data forgets is missing in the wheel, and in no test of a checkout."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["qstrategies"].split()
    package = ROOT / "qstrategies"
    declared = {path for pattern in patterns for path in package.glob(pattern)}
    made = {"__pycache__", "node_modules"}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert {path for path in files if not made & set(path.parts)} <= declared
