"""Chromium and axe-core for the tests of the report, driven by the command line alone."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM_VARIABLE = "SKTRANSFER_TEST_CHROMIUM"
AXE_VARIABLE = "SKTRANSFER_TEST_AXE"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def chromium() -> str:
    """Return the browser that a variable names, or one that is installed."""
    found = os.environ.get(CHROMIUM_VARIABLE) or shutil.which("chromium")
    if not found:
        pytest.skip(f"no Chromium: {CHROMIUM_VARIABLE} does not name one and none is installed")
    return found


def axe() -> str:
    """Return the text of axe-core, which a variable names (``axe.min.js`` of the npm package)."""
    found = os.environ.get(AXE_VARIABLE)
    if not found or not Path(found).is_file():
        pytest.skip(f"no axe-core: {AXE_VARIABLE} does not name an axe.min.js")
    return Path(found).read_text()


def run(page: Path, *flags: str, dark: bool = False) -> tuple[str, list[str]]:
    """Return what the browser prints, and what the page wrote to its console."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = subprocess.run(
        [chromium(), *FLAGS, scheme, "--enable-logging=stderr", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def asked(page: Path, script: str, *flags: str, dark: bool = False):
    """Return what a script finds on a copy of the page, which itself allows no scripts."""
    copy = page.with_name(f"asked-{page.name}")
    text, n = POLICY.subn("", page.read_text())
    assert n == 1
    answer = "(async () => {" + script + "})().then(found => {document.body.innerHTML = ''; "
    answer += "const e = document.createElement('pre'); e.id = 'answer'; "
    answer += "e.textContent = JSON.stringify(found); document.body.append(e);})"
    copy.write_text(text.replace("</body>", f"<script>{answer}</script></body>"))
    flags = ("--virtual-time-budget=30000", "--dump-dom", *flags)
    printed, _ = run(copy, *flags, dark=dark)
    found = re.search(r'<pre id="answer">(.*?)</pre>', printed, flags=re.S)
    assert found, "the script did not come to an end"
    return json.loads(html.unescape(found[1]))
