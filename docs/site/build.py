"""Build the site: gather the pages, generate those that are made of code, and run Sphinx.

    python docs/site/build.py OUT

Warnings are errors. Nothing is loaded from elsewhere when the site is read.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pages
from sphinx.cmd.build import main as sphinx

SITE = Path(__file__).parent
ROOT = SITE.parent.parent
FROM_ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "exported.md": "exported/README.md",
    "card.md": "exported/CARD.md",
    "card_depthwise.md": "exported/depthwise/CARD.md",
    "card_resnet8.md": "exported/resnet8/CARD.md",
    "card_fixed_point.md": "exported/fixed_point/CARD.md",
    "card_fixed_point_depthwise.md": "exported/fixed_point/depthwise/CARD.md",
    "card_fixed_point_resnet8.md": "exported/fixed_point/resnet8/CARD.md",
}
"""Pages that lie outside docs/, by their names in the site."""
NAVIGATION: dict[str, list[str]] = {
    "Start": ["self", "all"],
    "How to": [
        "your_network",
        "your_model",
        "your_data",
        "your_loop",
        "your_cores",
        "commands",
        "config",
        "deploy",
        "c99",
        "microcontrollers",
        "exported",
        "card",
        "card_depthwise",
        "card_resnet8",
        "card_fixed_point",
        "card_fixed_point_depthwise",
        "card_fixed_point_resnet8",
        "contributing",
    ],
    "Which strategy": ["strategies"],
    "Why": ["why", "same_bits", "exactness", "exactness_cost", "depth", "evidence", "verdict"],
    "Reference": ["api", "cli", "specification", "versions", "changelog"],
}
"""The parts of the site; what is named in none of them is a result."""
LINK = re.compile(r"\[(?P<text>[^]]*)\]\((?P<path>[^)\s#:]+)(?P<place>#[^)\s]*)?\)")


def gather(folder: Path) -> None:
    """Fill ``folder`` with all sources."""
    texts = {path.name: path for path in (ROOT / "docs").glob("*.md")}
    texts |= {name: ROOT / path for name, path in FROM_ELSEWHERE.items()}
    for picture in (ROOT / "docs").glob("*.png"):
        shutil.copy(picture, folder)
    for name, path in texts.items():
        _write(folder / name, _linked(path, folder))
    results = _results(texts)
    generated = pages.all_pages() | {"results": pages.results(results, ROOT / "docs")}
    for name, text in generated.items():
        _write(folder / f"{name}.md", text)
    parts = {**NAVIGATION, "Results": ["results", *results]}
    trees = [_tree(names, f":caption: {title}") for title, names in parts.items()]
    _append(folder / "index.md", *trees)
    _append(folder / "strategies.md", _tree(f"strategy/{name}" for name in pages.strategy_names()))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _results(texts: Iterable[str]) -> list[str]:
    named = {page for part in NAVIGATION.values() for page in part} | {"index"}
    return sorted({name.removesuffix(".md") for name in texts} - named)


def _linked(page: Path, folder: Path) -> str:
    """The text of ``page`` with links that hold in ``folder``: to pages of the site, to copies of
    other files, and none to folders."""
    names = {(ROOT / path): name for name, path in FROM_ELSEWHERE.items()}
    names[ROOT / "README.md"] = "index.md"

    def linked(found: re.Match[str]) -> str:
        target = (page.parent / found["path"]).resolve()
        if target.is_dir():
            return found["text"]
        place = found["place"] or ""
        return f"[{found['text']}]({names.get(target) or _copied(target, folder)}{place})"

    return LINK.sub(linked, page.read_text())


def _copied(target: Path, folder: Path) -> str:
    """The path in ``folder`` of a page or picture of docs/, or of a copy of any other file."""
    if target.parent == ROOT / "docs" or not target.is_file():
        return target.name
    place = Path("files") / target.relative_to(ROOT)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target, folder / place)
    return str(place)


def _tree(names: Iterable[str], *options: str) -> str:
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *names, "```", ""])


def _append(page: Path, *trees: str) -> None:
    """What the sidebar shows below ``page``."""
    page.write_text("\n\n".join([page.read_text(), *trees]))


def polish(page: str) -> str:
    """The HTML ``page`` with what the theme leaves out: the level of the sidebar's headings, the
    keyboard in what scrolls, and a colon behind parameters, where Sphinx has ``--``."""
    page = page.replace('role="heading"', 'role="heading" aria-level="2"')
    page = page.replace("</strong> -- ", "</strong>: ")
    page = page.replace("<pre>", '<pre tabindex="0">')
    return page.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


def main(out: Path) -> int:
    """The exit code of Sphinx, which writes the site to ``out``."""
    with tempfile.TemporaryDirectory() as sources:
        gather(Path(sources))
        options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(SITE)]
        code = sphinx([*options, "-d", f"{sources}/.doctrees", sources, str(out)])
    for page in out.rglob("*.html"):
        page.write_text(polish(page.read_text()))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
