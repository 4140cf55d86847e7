"""The report in Chromium: no errors, nothing clipped, nothing that scrolls sideways."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from pages import made, summary

from metarl.html_report import write_page


def browser() -> str | None:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("METARL_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium here; METARL_BROWSER names one")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [1, 3])
def test_it_renders_in_a_browser_without_errors_or_scrolling_sideways(tmp_path, width, count):
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
    script = (
        "<script>document.title = 'W' + [document.documentElement.scrollWidth,"
        "document.documentElement.clientWidth, document.querySelectorAll('svg.chart').length]"
        "</script></body>"
    )
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "asked.html").write_text(page.replace("</body>", script))
    command = [
        str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
    ]  # fmt: skip
    got = subprocess.run(
        [*command, f"file://{tmp_path}/asked.html"], capture_output=True, text=True, timeout=120
    )
    wide, visible, charts = map(int, re.search(r"<title>W([\d,]+)", got.stdout)[1].split(","))
    assert wide <= visible
    assert visible > width - 30
    assert charts >= 4
    plain = subprocess.run(
        [*command, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in plain.stderr + got.stderr
