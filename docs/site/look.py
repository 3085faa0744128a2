"""Open the built site in headless Chromium, on a desktop and a phone, light and dark.

    python docs/site/look.py build/site [SCREENSHOTS]

Fails where axe finds something serious, a page scrolls sideways, or asks anybody else for anything.
With a folder SCREENSHOTS what is seen is kept there.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import AXE, CHROMIUM, Browser, served  # noqa: E402

PAGES = (
    "index",
    "all",
    "api",
    "cli",
    "results",
    "strategies",
    "strategy/cle",
    "comparison",
    "exactness",
    "why",
    "your_model",
    "contributing",
)
"""One of each kind, and those with the widest tables."""
SCREENS = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
SCHEMES = ("light", "dark")
FINDINGS = """axe.run(document).then(found => found.violations
  .filter(each => ["serious", "critical"].includes(each.impact))
  .map(each => [each.id, each.nodes.length, each.nodes[0].html.slice(0, 200)]))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
ELSEWHERE = """performance.getEntriesByType("resource").map(each => each.name)
  .filter(name => !name.startsWith(location.origin) && !name.startsWith("data:"))"""


def look(browser: Browser, address: str, shot: Path | None) -> list[str]:
    """What is wrong with the page at ``address``; a picture of it is written to ``shot``."""
    browser.open(address)
    path = json.dumps(address.rpartition("/")[2])
    browser.wait(f"document.readyState === 'complete' && location.href.endsWith({path})")
    browser.run(f"{AXE.read_text()}; 0")
    faults = [f"axe: {finding}" for finding in browser.run(FINDINGS)]
    if (pixels := browser.run(WIDER)) > 0:
        faults.append(f"{pixels} pixels wider than the screen")
    faults += [f"asks for {name}" for name in browser.run(ELSEWHERE)]
    if shot is not None:
        picture = browser.send("Page.captureScreenshot", format="png")["data"]
        shot.write_bytes(base64.b64decode(picture))
    return faults


def main(site: Path, shots: Path | None = None) -> int:
    """0 if no page has a fault, else 1; the faults are printed."""
    if CHROMIUM is None or not AXE.is_file():
        print("needs Debian's package chromium, and axe-core: npm ci --prefix tests/web")
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory() as profile, served(site) as address:
        browser = Browser(profile)
        for (screen, size), scheme in itertools.product(SCREENS.items(), SCHEMES):
            set_up(browser, *size, scheme)
            for page in PAGES:
                shot = shots and shots / f"{page.replace('/', '-')}-{screen}-{scheme}.png"
                for fault in look(browser, f"{address}/{page}.html", shot):
                    print(f"{page} ({screen}, {scheme}): {fault}")
                    wrong += 1
        browser.close()
    return min(wrong, 1)


def set_up(browser: Browser, width: int, height: int, mobile: bool, scheme: str) -> None:
    """Give ``browser`` a screen and a colour scheme."""
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=mobile,
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.send("Emulation.setEmulatedMedia", features=[feature])


if __name__ == "__main__":
    folders = [Path(each) for each in sys.argv[1:]]
    for folder in folders[1:]:
        folder.mkdir(parents=True, exist_ok=True)
    sys.exit(main(*folders))
