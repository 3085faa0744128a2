"""examples/web in a real browser: what is drawn is read, and the bits are those of the golden
vectors, or it says that they are not."""

import json
from pathlib import Path

import pytest
from browser import AXE, CHROMIUM, Browser, served
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
ORT = ROOT / "qstrategies/runtimes/web/node_modules/onnxruntime-web"
PAGE = "/examples/web/"
VECTORS = "/exported/qat.vectors.json"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
    pytest.mark.skipif(not ORT.is_dir(), reason="needs: npm ci --prefix qstrategies/runtimes/web"),
]
STROKES = {  # in shares of the paper's side
    "1": [[(0.5, 0.15), (0.5, 0.85)]],
    "4": [[(0.3, 0.2), (0.28, 0.55), (0.72, 0.55)], [(0.65, 0.2), (0.62, 0.9)]],
    "7": [[(0.3, 0.25), (0.7, 0.25), (0.6, 0.5), (0.5, 0.8)]],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').textContent")


def opened(browser, address):
    """The verdict about the bits, once it stands there."""
    browser.open(address + PAGE)
    browser.wait(
        f"location.href === '{address + PAGE}' && document.getElementById('verdict')?.className"
    )
    return text(browser, "verdict")


@pytest.fixture
def page(browser):
    with served(ROOT) as address:
        assert opened(browser, address) == "Equal: 4 of 4 golden vectors"
        yield browser


def place(browser):
    script = "(({left, top, width}) => [left, top, width])(document.getElementById('paper').getBoundingClientRect())"
    return browser.run(script)


@pytest.mark.parametrize("digit", STROKES)
def test_what_the_mouse_draws_is_read(page, digit):
    left, top, side = place(page)
    for stroke in STROKES[digit]:
        page.drag([(left + side * x, top + side * y) for x, y in stroke])
    page.wait(f"document.getElementById('digit').textContent === '{digit}'")
    assert page.run("document.querySelector('#scores .first').textContent").startswith(digit)
    page.run("document.getElementById('clear').click()")
    page.wait("document.getElementById('digit').textContent === '\\u2013'")


def chosen(browser, path):
    """Open ``path`` as a person does in the dialogue."""
    document = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=document, selector="#picture")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@pytest.mark.parametrize("dark", [True, False], ids=["light on dark", "dark on light"])
def test_a_picture_is_read_on_either_ground(page, mnist, tmp_path, dark):
    test = mnist["test"]
    number = test.labels.tolist().index(2)
    picture = Image.fromarray(test.images[number, 0].numpy())
    picture = picture if dark else ImageOps.invert(picture)
    picture.resize((140, 140)).save(tmp_path / "two.png")
    chosen(page, tmp_path / "two.png")
    page.wait("document.getElementById('digit').textContent === '2'")


def test_what_is_no_picture_is_said(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    chosen(page, tmp_path / "notes.txt")
    page.wait("document.getElementById('note').textContent.startsWith('notes.txt is no picture')")


def test_another_bit_is_not_equal(browser):
    golden = json.loads((ROOT / VECTORS[1:]).read_text())
    golden["vectors"][1]["outputs"][0][3] ^= 1
    with served(ROOT, {VECTORS: json.dumps(golden).encode()}) as address:
        assert opened(browser, address) == "Not equal: 3 of 4 golden vectors"


def test_another_file_is_not_the_one_of_the_vectors(browser):
    other = (ROOT / "exported/no_norm.onnx").read_bytes()
    with served(ROOT, {"/exported/qat.onnx": other}) as address:
        assert opened(browser, address) == "Not equal: the golden vectors are of another file"


def test_nothing_is_loaded_from_elsewhere(page):
    loaded = page.run("performance.getEntriesByType('resource').map(each => each.name)")
    origin = page.run("location.origin")
    assert len(loaded) >= 6 and all(each.startswith(origin) for each in loaded)
    assert (
        page.run("fetch('http://127.0.0.2:9/').then(() => 'loaded', () => 'refused')") == "refused"
    )


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm ci --prefix tests/web")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "mobile"), [(1200, False), (360, True)])
def test_axe_finds_no_fault_and_the_page_does_not_scroll_sideways(page, scheme, width, mobile):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile}
    page.send("Emulation.setDeviceMetricsOverride", **size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.send("Emulation.setEmulatedMedia", features=[feature])
    page.run(AXE.read_text() + "; 0")
    script = "axe.run(document).then(found => [found.violations.map(each => each.id), found.passes.length])"
    violations, passes = page.run(script)
    assert violations == [] and passes > 20
    assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
    page.send("Emulation.clearDeviceMetricsOverride")
