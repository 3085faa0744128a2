"""The HTML report: what it says and escapes, and how a real browser takes it."""

import dataclasses
import html
import json
import re
import shlex
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import AXE, CHROMIUM

from qstrategies import text
from qstrategies.cli import parser, settings
from qstrategies.errors import InputError
from qstrategies.evidence import conclude
from qstrategies.records import (
    PRESETS,
    Epoch,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    RuntimeCheck,
    Speed,
    WeightHistogram,
    Widths,
)
from qstrategies.records.predictions import Predictions, SplitPredictions
from qstrategies.report import runs, write
from qstrategies.report.order import Order

HOSTILE = '<script>window.broken = 1</script> $x_1$ "&\'|\x1b\u202e](http://a)\n# id="#000000'
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


def histogram(when, epoch):
    return WeightHistogram(
        when=when, epoch=epoch, low=-1.0, high=1.0, max_abs=1.0, sigma=0.2, counts=(1, 5, 9, 5, 1)
    )


def make_record(strategy, bits, seed, accuracy):
    return RunRecord(
        config=ExperimentConfig(
            strategy=strategy, seed=seed, quantization=QuantizationConfig(weight_bits=bits)
        ),
        status="done",
        environment={"cpu": HOSTILE, "packages": {"torch": "2"}, "commit": "abc"},
        float_accuracy=0.9,
        int8_accuracy=accuracy,
        validation_accuracy=accuracy,
        checks=(
            RuntimeCheck(
                runtime="tract",
                file="model.onnx",
                images=9,
                accuracy=0.9,
                agreement=1,
                rows_equal=0.5,
                max_steps=2,
            ),
        ),
        sizes={"float": 4000, "portable": 1000},
        speeds=tuple(
            Speed(
                file=file,
                microseconds_batch_1=1,
                images_per_second_batch_256=1,
                speedup_batch_1=1,
                speedup_batch_256=1,
            )
            for file in "ab"
        ),
        curve=(Epoch(loss=0.5, accuracy=0.8, seconds=1), Epoch(loss=0.2, accuracy=0.9, seconds=1)),
        histograms=(histogram("training", 1), histogram("training", 2), histogram("folded", 2)),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of two strategies, one with a name that means harm, at two widths and seeds."""
    folder, random = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    labels = random.integers(0, 10, 400)
    records = []
    for strategy in ("no_norm", HOSTILE):
        for bits, accuracy in ((8, 0.9), (3, 0.8)):
            for seed in (0, 1):
                records.append(make_record(strategy, bits, seed, accuracy))
                split = SplitPredictions(
                    labels,
                    *(np.where(random.random(400) < rate, labels, 0) for rate in (0.9, accuracy)),
                )
                run = Predictions(split, split)
                run_folder = folder / records[-1].config.run_id
                run_folder.mkdir(parents=True)
                run.save(run_folder)
    finding = {"rule": "outlier", "where": HOSTILE, "evidence": "max/sigma 90", "advice": "clip"}
    runs.keep_diagnosis(folder / records[0].config.run_id, json.dumps({"findings": [finding]}))
    write.write_report(records, folder, *conclude(records, folder))
    return records, folder


def in_html(name):
    return html.escape(text.block(name)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def test_the_page_the_markdown_and_the_terminal_say_the_same(written):
    records, folder = written
    found, advice = conclude(records, folder)
    page, markdown = (folder / "report.html").read_text(), (folder / "summary.md").read_text()
    shown = write.as_text(records, folder, found, advice)
    grids = write.grids(records, folder, found, Order.of(records, found, advice))
    for grid in grids:
        for cell in {cell for row in grid.rows for cell in row}:
            assert in_html(cell) in page, cell
            assert text.markdown(cell) in markdown, cell
    for grid in grids[1:5]:
        assert all(text.line(cell) in shown for row in grid.rows for cell in row)
    assert in_html(advice.reason) in page
    assert text.markdown(advice.reason) in markdown
    assert text.block(advice.reason) in shown


def test_names_from_files_are_escaped_and_nothing_is_loaded_from_elsewhere(written):
    page = (written[1] / "report.html").read_text()
    assert "<script>window.broken" not in page and "&lt;script&gt;window.broken" in page
    links = re.findall(r'(?:src|href|action|data)="([^"]*)"', page)
    assert links and all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page
    assert "url(http" not in page and "@import" not in page


class Reader(HTMLParser):
    """Every tag with its attributes, and the texts between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_name_adds_no_tag_and_no_attribute_to_the_page(written):
    page = (written[1] / "report.html").read_text()
    read = Reader(page)
    assert [tag for tag, _ in read.tags].count("script") == 1
    names = {name for _, attributes in read.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} and '"' not in "".join(names)
    selected = {attributes["value"] for tag, attributes in read.tags if tag == "option"}
    switched = {
        attributes["data-strategy"] for _, attributes in read.tags if "data-strategy" in attributes
    }
    assert selected == switched == {"no_norm", text.block(HOSTILE)}
    assert any(text.line(HOSTILE) in item for item in read.texts), (
        "whole in a figure, colours and ids in it untouched"
    )


def test_the_figures_are_well_formed(written):
    page = (written[1] / "report.html").read_text()
    pictures = re.findall(r"<svg [^>]*xmlns=.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 9
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_no_file_of_the_report_has_a_character_that_hides_or_turns_something(written):
    records, folder = written
    shown = write.as_text(records, folder, *conclude(records, folder))
    for said in (
        shown,
        *(
            (folder / f"{name}").read_text()
            for name in ("report.html", "summary.md", "summary.csv", "summary.json")
        ),
    ):
        assert {character for character in said if not character.isprintable()} == {"\n"}


def test_ids_of_the_figures_are_unique(written):
    ids = re.findall(r'\bid="([^"]+)"', (written[1] / "report.html").read_text())
    assert len(ids) == len(set(ids)) > 20


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"findings": [1]}', '{"findings": [{"rule": "x"}]}']
)
def test_a_damaged_diagnosis_is_named(content, written, tmp_path):
    records, _ = written
    runs.keep_diagnosis(tmp_path / records[0].config.run_id, content)
    with pytest.raises(InputError, match="diagnosis.json' is not a diagnosis"):
        runs.diagnoses(records, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        ExperimentConfig(strategy="no_norm"),
        ExperimentConfig(strategy="clamp", options={"threshold": 0.05}, seed=3, pixels="float32"),
        ExperimentConfig(
            strategy="qat", **PRESETS["post"], model="resnet8", dataset="fashion_mnist"
        ),
        ExperimentConfig(
            strategy="qat",
            training=dataclasses.replace(
                PRESETS["default"]["training"],
                epochs=7,
                learning_rate=1e-3,
                optimizer="sgd",
                batch_size=32,
            ),
            tuning=dataclasses.replace(
                PRESETS["default"]["tuning"], epochs=2, optimizer="sgd", batch_size=32
            ),
        ),
        ExperimentConfig(
            strategy="no_norm",
            quantization=QuantizationConfig(
                weight_bits=3,
                levels="no_zero",
                per_channel=False,
                observer="histogram",
                reduce_range=True,
                exact=False,
                saturation="vnni_or_arm",
                engine="fbgemm",
                calibration_images=64,
            ),
        ),
        ExperimentConfig(
            strategy="cle",
            calibration_draw=2,
            quantization=QuantizationConfig(activation_bits=4),
        ),
    ],
)
def test_the_command_of_a_run_gives_its_configuration(config):
    words = shlex.split(runs.command(config))
    assert words[0] == "qstrategies"
    options = parser().parse_args(words[1:])
    widths = Widths(options.weight_bits, options.activation_bits)
    assert settings.configuration(options, options.strategy, widths) == config


def test_a_configuration_without_a_command_says_so():
    config = ExperimentConfig(
        strategy="qat", tuning=dataclasses.replace(PRESETS["default"]["tuning"], batch_size=3)
    )
    assert "Python" in runs.command(config)


def in_browser(page, script, tmp_path, *flags):
    """What ``script``, an async function body, returns in a headless browser that shows
    ``page``."""
    wrapped = f"""<script>addEventListener("load", async () => {{
      let result;
      try {{ result = await (async () => {{ {script} }})(); }} catch (error) {{ result = String(error); }}
      const out = document.createElement("pre");
      out.id = "result";
      out.textContent = JSON.stringify(result);
      document.body.append(out);
    }});</script>"""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", wrapped + "</body>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [*command, *flags, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(
        html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    )


@in_a_browser
def test_tables_sort_by_number_both_ways(written, tmp_path):
    script = """
      const table = [...document.querySelectorAll("table")].find(item => item.textContent.includes("agree %"));
      const head = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.startsWith("int8 %"));
      const column = () => [...table.tBodies[0].rows].map(row => row.cells[head].textContent.trim());
      const button = table.tHead.rows[0].cells[head].querySelector("button"), seen = [];
      for (const _ of [1, 2]) { button.click(); seen.push([button.parentNode.ariaSort, column()]); }
      return seen;"""
    (up, ascending), (down, descending) = in_browser(
        (written[1] / "report.html").read_text(), script, tmp_path
    )
    assert (up, down) == ("ascending", "descending")
    values = [float(cell.split()[0]) for cell in ascending if cell != "-"]
    assert len(values) == 4 and values == sorted(values) and values[0] < values[-1]
    assert [float(cell.split()[0]) for cell in descending if cell != "-"] == values[::-1]


@in_a_browser
def test_weights_switch_between_strategies_and_moments_and_names_do_no_harm(written, tmp_path):
    script = """
      const shown = () => [...document.querySelectorAll(".weights")].filter(item => !item.hidden).map(item => item.dataset);
      const strategy = document.getElementById("strategy"), moment = document.getElementById("moment"), seen = [shown()];
      moment.value = "folded, epoch 2"; moment.dispatchEvent(new Event("change")); seen.push(shown());
      strategy.selectedIndex = 1; strategy.dispatchEvent(new Event("change")); seen.push(shown());
      return [seen, window.broken ?? null];"""
    seen, broken = in_browser((written[1] / "report.html").read_text(), script, tmp_path)
    assert broken is None
    assert seen == [
        [{"strategy": "no_norm", "moment": "epoch 1"}],
        [{"strategy": "no_norm", "moment": "folded, epoch 2"}],
        [{"strategy": text.block(HOSTILE), "moment": "folded, epoch 2"}],
    ]


@in_a_browser
@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm ci --prefix tests/web")
@pytest.mark.parametrize(
    "flags",
    [(), ("--blink-settings=preferredColorScheme=0",), ("--window-size=500,900",)],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_no_fault_and_the_page_does_not_scroll_sideways(written, tmp_path, flags):
    page = (
        (written[1] / "report.html")
        .read_text()
        .replace("<head>", f"<head><script>{AXE.read_text()}</script>", 1)
    )
    script = """
      const found = await axe.run(document), wide = document.documentElement.scrollWidth - innerWidth;
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      return [found.violations.map(item => [item.id, item.impact, item.nodes[0].html]), found.passes.length, wide, dark];"""
    violations, passes, wide, dark = in_browser(page, script, tmp_path, *flags)
    assert passes > 20
    assert violations == []
    assert wide <= 0
    assert dark is ("preferredColorScheme" in "".join(flags))


@in_a_browser
def test_the_verdict_is_seen_at_1280_pixels_without_scrolling(written, tmp_path):
    script = """
      const heads = [...document.querySelectorAll("th")].filter(item => item.textContent.trim() === "verdict");
      return heads.map(item => item.getBoundingClientRect().right);"""
    page = (written[1] / "report.html").read_text()
    (right,) = in_browser(page, script, tmp_path, "--window-size=1280,900")
    assert 0 < right <= 1280
