"""Every page of the documentation in Chromium, on a phone and on a desk, in light and in dark."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.browser import browser, measured

ROOT = Path(__file__).resolve().parents[1]
PARTS = 24
"""In which the pages are opened, so that none takes long."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser() is None, reason="no Chromium here; METARL_BROWSER names one"),
    pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation, built as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(out)],
        cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    return out


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_fits_and_can_be_read(site, tmp_path, part):
    """Nothing wider than the window, contrast of WCAG 2 AA, no table cut, no error in the log."""
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("index.html"))
    assert len(pages) > 100
    rows, said = measured(site, pages[part::PARTS], tmp_path / "profile")
    assert [row for row in rows if row["faults"] or row["moved"]] == []
    assert len(rows) == 4 * len(pages[part::PARTS])  # two widths, two schemes
    assert said == []


def test_what_is_too_wide_or_too_faint_is_found(tmp_path):
    page = "<meta name=viewport content='width=device-width'><p style='{}'>Some words</p>"
    for name, style in (("wide", "width: 600px"), ("faint", "color: #999"), ("good", "")):
        (tmp_path / f"{name}.html").write_text("<!doctype html>" + page.format(style))
    (tmp_path / "broken.html").write_text("<!doctype html><script>missing()</script>")
    pages = ["wide.html", "faint.html", "good.html", "broken.html"]
    rows, said = measured(tmp_path, pages, tmp_path / "profile", dark=False)
    faults = {(row["page"], row.get("width")) for row in rows if row["faults"]}
    assert faults == {("wide.html", 390), ("faint.html", None)}
    assert "missing" in "".join(said)
