"""Pages in headless Chromium: what is wider than the window, too faint to read, or said in its log.

The pages are served from a folder on this machine and opened one after the other in a frame of a
page that measures them, so that the browser starts once for all of them. A window of Chromium's is
never under 500 pixels wide, but a frame may be.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

DRIVER = Path(__file__).with_name("measure.html")
WIDTHS = (390, 1280)
SEARCH = {
    "config": {"lang": ["en"], "separator": "[\\s\\-]+", "pipeline": [], "fields": {
        name: {"boost": 1.0} for name in ("title", "text", "tags")}},
    "docs": [{"location": "", "title": "none", "text": "none"}],
}  # fmt: skip
"""An index for the site's search with nothing in it."""


def browser() -> str | None:
    """The program, or None."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("METARL_BROWSER") or next(filter(None, map(shutil.which, names)), None)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and the driver, and takes what the driver found."""

    asked: dict[str, Any]
    found: Queue[Any]

    def do_GET(self) -> None:
        """Serve the driver by its name, no index for the search, and files else."""
        if self.path == "/measure.html":
            page = DRIVER.read_text("utf-8").replace("ASKED", json.dumps(self.asked)).encode()
        elif self.path.endswith("/search_index.json"):  # each page would read all of it
            page = json.dumps(SEARCH).encode()
        else:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.end_headers()
        self.wfile.write(page)
        return None

    def do_POST(self) -> None:
        """Take the result."""
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measured(
    folder: Path, pages: list[str], profile: Path, *, dark: bool | None = None, timeout: float = 240
) -> tuple[list[dict[str, Any]], list[str]]:
    """Open pages at each width. Returns what each showed, and the errors in the browser's log.

    Args:
        folder: with the pages and all that they need.
        pages: paths below it.
        profile: an empty folder for the browser.
        dark: the reader's scheme; None: the scheme that the site itself switches, both in turn.
        timeout: in seconds.
    """
    found: Queue[Any] = Queue()
    asked = {"pages": pages, "widths": WIDTHS, "switch": dark is None}
    handler = type("Bound", (Handler,), {"asked": asked, "found": found})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,900",
        "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/measure.html",
    ]  # fmt: skip
    log = profile.with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            rows = found.get(timeout=timeout)
        except Empty:
            rows = [{"page": "?", "moved": [], "faults": [f"not done in {timeout:g} s"]}]
        finally:
            process.terminate()
            process.wait(20)
            server.shutdown()
            server.server_close()
    lines = re.findall(r"CONSOLE[^\n]*", log.read_text("utf-8", errors="replace"))
    return rows, lines
