"""The report in Chromium: no errors, nothing clipped, nothing that scrolls sideways."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.html import made, summary

from metarl.report.page import write_page


def browser() -> str | None:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("METARL_BROWSER") or next(filter(None, map(shutil.which, names)), None)


MEASURE = """<script>
const faults = [], near = 1.5;
document.querySelectorAll('details').forEach(d => d.open = true);
for (const svg of document.querySelectorAll('svg.chart')) {
  const frame = svg.getBoundingClientRect();
  const words = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
  words.forEach(([t, a], i) => {
    if (a.left < frame.left - near || a.right > frame.right + near ||
        a.top < frame.top - near || a.bottom > frame.bottom + near)
      faults.push('clipped: ' + t.textContent);
    if (a.height < 8 && a.width < 8) faults.push('tiny: ' + t.textContent);
    words.slice(i + 1).forEach(([u, b]) => {
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > near &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2 * near)
        faults.push('overlap: ' + t.textContent + ' / ' + u.textContent);
    });
  });
}
const page = document.documentElement;
parent.postMessage(JSON.stringify({asked: location.hash,
  wide: page.scrollWidth, visible: page.clientWidth,
  charts: document.querySelectorAll('svg.chart').length, faults}), '*');
</script></body>"""
FRAME = """<!doctype html><body style="margin:0">
<script>
const found = [];
onmessage = got => {
  found.push(JSON.parse(got.data));
  document.title = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
};
</script>FRAMES"""
IFRAME = '<iframe src="asked.html#{0}" style="border:0;width:{0}px;height:900px"></iframe>'
WIDTHS = (390, 1280)


def opened(path, profile) -> tuple[str, str]:
    """Open a file in the browser. Returns the document that became of it, and the log."""
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile}",
        "--window-size=1400,900", "--virtual-time-budget=3000", "--dump-dom", f"file://{path}",
    ]  # fmt: skip
    got = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return got.stdout, got.stderr


@pytest.mark.skipif(browser() is None, reason="no Chromium here; METARL_BROWSER names one")
@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_clipped_overlaps_or_scrolls_sideways(tmp_path, count):
    """The page is in frames of two widths: a window of Chromium's is never under 500 pixels."""
    rng = np.random.default_rng(0)
    tasks = rng.uniform(0, 1, (30, 2)).tolist()
    runs = [
        summary(
            f"half-cheetah-with-a-long-name-maml-trpo-seed{n}",
            made(rng.normal(-1e4, 3e3, (30, 2)), tasks, names=("goal_velocity", "strength")),
        )
        for n in range(count)
    ]
    page = write_page(runs, tmp_path / "page.html").read_text()
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "asked.html").write_text(page.replace("</body>", MEASURE))
    (tmp_path / "frame.html").write_text(
        FRAME.replace("FRAMES", "".join(map(IFRAME.format, WIDTHS)))
    )
    seen, said = opened(tmp_path / "frame.html", tmp_path / "profile")
    title = re.search(r"<title>([^<]+)</title>", seen)
    assert title, said
    measured = {got["asked"]: got for got in json.loads(base64.b64decode(title[1]))}
    assert measured.keys() == {f"#{width}" for width in WIDTHS}
    for width in WIDTHS:
        got = measured[f"#{width}"]
        assert got["faults"] == []
        assert got["wide"] <= got["visible"]
        assert width - 30 < got["visible"] <= width
        assert got["charts"] >= 4
    _, plain = opened(tmp_path / "page.html", tmp_path / "profile")
    assert "CONSOLE" not in plain + said
