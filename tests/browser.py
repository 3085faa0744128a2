"""A real Chromium without a window, told what to do over a pipe (the Chrome DevTools Protocol)."""

import contextlib
import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "web/node_modules/axe-core/axe.min.js"
PATIENCE = 60  # seconds for anything that a page is waited for


class RefusedError(Exception):
    """The browser does not do what it is told: the page may be on its way to another one."""


class Browser:
    """One page of one browser."""

    def __init__(self, profile):
        (to_read, self.writing), (self.reading, to_write) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        arguments = [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"]
        script = f'exec "$@" 3<&{to_read} 4>&{to_write}'  # the file descriptors that it takes
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *arguments],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.incoming = os.fdopen(self.reading, "rb")
        self.numbers, self.session = itertools.count(1), None
        pages = self.send("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in pages if each["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    def send(self, method, **params):
        """What the browser answers to one command."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RefusedError(answer["error"])
                return answer["result"]

    def _message(self):
        found = bytearray()
        while (byte := self.incoming.read(1)) != b"\0":
            assert byte, "the browser has ended"
            found += byte
        return bytes(found)

    def run(self, script):
        """The value of a JavaScript expression, which may be a promise."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url):
        self.send("Page.navigate", url=url)

    def wait(self, script):
        """The value of an expression once it is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(RefusedError):
                if found := self.run(script):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def drag(self, points):
        """Press the mouse at the first point, move over the others, and let go."""
        mouse = functools.partial(
            self.send, "Input.dispatchMouseEvent", button="left", clickCount=1
        )
        mouse(type="mousePressed", x=points[0][0], y=points[0][1])
        for x, y in points[1:]:
            mouse(type="mouseMoved", x=x, y=y, buttons=1)
        mouse(type="mouseReleased", x=points[-1][0], y=points[-1][1])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.incoming.close()
        os.close(self.writing)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing, and gives ``changed`` paths other contents."""

    changed = {}

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        content = self.changed.get(self.path)
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def served(folder, changed=()):
    """The address on loopback at which ``folder`` is served."""
    handler = type("Handler", (Quiet,), {"changed": dict(changed)})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
