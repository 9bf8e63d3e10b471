"""Open every page of the built documentation in a browser, and list what is wrong with it.

Usage: ``python tools/check_site.py docs/_build/html --axe axe.min.js --screenshots DIR``

Each page is opened at 1280 and at 390 pixels, light and dark. Wrong are: any message on the
console, a request that fails or that goes to another host, sideways scrolling, parts of the header
that cover each other, and what axe-core finds. With search.html, the site's own search is asked for
the words in SEARCHES. It needs playwright (``pip install playwright``), a Chromium (``--chromium``)
and, with ``--axe``, the file ``axe.min.js`` of the npm package axe-core. CI does not run it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")

# What people type -> the beginnings of pages of which one has to be among the first five results.
SEARCHES = {
    "heatmap": ["user_guide/inspection", "generated/sktransfer.inspection"],
    "Grad-CAM": ["user_guide/inspection", "generated/sktransfer.inspection"],
    "class activation map": ["user_guide/inspection", "generated/sktransfer.inspection"],
    "TTA": ["user_guide/augmentation"],
    "test-time augmentation": ["user_guide/augmentation"],
    "learning rate finder": ["user_guide/finetune"],
    "LR finder": ["user_guide/finetune"],
    "early stopping": ["user_guide/finetune"],
    "submission": ["user_guide/deployment"],
    "latency": ["user_guide/deployment"],
    "Docker": ["user_guide/deployment"],
    "ONNX": ["user_guide/deployment"],
    "ensembling": ["user_guide/extractor"],
    "ensemble": ["user_guide/transfer"],
    "AutoML": ["user_guide/transfer"],
    "LoRA": ["user_guide/finetune"],
    "fine-tune": ["user_guide/finetune"],
    "confusion matrix": ["user_guide/", "generated/sktransfer.inspection"],
    "class imbalance": ["user_guide/imbalance"],
    "DICOM": ["user_guide/dicom", "generated/sktransfer.preprocessing.DicomOptions"],
    "sensitivity": ["user_guide/thresholds", "generated/sktransfer.metrics"],
}

# Boxes of the header that cover one another by more than a pixel, or leave the header.
HEADER_PROBLEMS = """() => {
  const header = document.querySelector(".bd-header");
  if (!header) return ["there is no header"];
  const found = [], boxes = [];
  for (const element of header.querySelectorAll("a, button, input, .logo__title, .navbar-brand")) {
    if (!element.checkVisibility()) continue;
    const box = element.getBoundingClientRect();
    if (box.width && box.height) boxes.push([element, box]);
  }
  const name = e => `${e.tagName} "${(e.innerText || e.className).trim().slice(0, 30)}"`;
  const outer = header.getBoundingClientRect();
  boxes.forEach(([a, p], i) => {
    if (p.top < outer.top - 1 || p.bottom > outer.bottom + 1 || p.right > innerWidth + 1)
      found.push(`${name(a)} leaves the header`);
    for (const [b, q] of boxes.slice(i + 1)) {
      if (a.contains(b) || b.contains(a)) continue;
      const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (wide > 1 && high > 1) found.push(`${name(a)} covers ${name(b)}`);
    }
  });
  return found;
}"""

# The elements that make the page, or the column of its text, wider than the window, unless a box of
# their own scrolls.
SIDEWAYS = """() => {
  const column = document.querySelector(".bd-article-container") ?? document.body;
  const width = Math.max(document.documentElement.scrollWidth,
                         column.getBoundingClientRect().left + column.scrollWidth);
  if (width <= innerWidth && column.scrollWidth <= column.clientWidth + 1) return [];
  const scrolls = e => {
    for (; e && e !== document.body && e !== column; e = e.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  const right = Math.min(innerWidth, column.getBoundingClientRect().right);
  const wide = [...column.querySelectorAll("*")].filter(
    e => e.getBoundingClientRect().right > right + 1 && !scrolls(e.parentElement));
  const name = e => `${e.tagName}.${e.className} ${(e.innerText || "").slice(0, 40)}`;
  return [`${width} pixels wide: ${wide.slice(-4).map(name).join("; ")}`];
}"""

AXE = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
  v => `axe ${v.id}: ${v.help}: ` + v.nodes.slice(0, 3).map(n => n.target.join(" ") + " "
  + (n.any.concat(n.all, n.none)[0]?.message ?? "")).join("; ") + ` (${v.nodes.length} in all)`)"""


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep requests off the terminal."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file, and say nothing where a page that was left no longer wants it."""
        with contextlib.suppress(ConnectionError):
            super().copyfile(source, outputfile)


def serve(folder: Path) -> str:
    """Serve a folder on this machine only, for as long as the process lives; return the address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def watch(tab: Any, address: str, found: list[str]) -> None:
    """Note what a tab says on the console and which requests fail or leave this machine."""

    def route(route: Any) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            found.append(f"request to another host: {url}")
            route.abort()

    tab.route("**/*", route)
    tab.on("console", lambda message: found.append(f"console: {message.type}: {message.text}"))
    tab.on("pageerror", lambda error: found.append(f"error: {error}"))
    # A browser that leaves a page cancels what it was still loading: ERR_ABORTED.
    tab.on(
        "requestfailed",
        lambda request: (
            request.failure == "net::ERR_ABORTED" or found.append(f"request failed: {request.url}")
        ),
    )
    tab.on(
        "response",
        lambda answer: answer.status >= 400 and found.append(f"{answer.status}: {answer.url}"),
    )


def check_page(tab: Any, axe: Path | None) -> Iterator[str]:
    """Yield what is wrong with the page that a tab shows."""
    yield from (f"sideways scrolling: {wide}" for wide in tab.evaluate(SIDEWAYS))
    yield from (f"header: {problem}" for problem in tab.evaluate(HEADER_PROBLEMS))
    if axe is not None:
        tab.evaluate(axe.read_text())
        yield from tab.evaluate(AXE)


def check_pages(pages: list[str], options: argparse.Namespace) -> list[tuple[str, str]]:
    """Open some pages in every width and scheme; return what is wrong, and where."""
    from playwright.sync_api import sync_playwright

    address, problems = serve(options.folder), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium)
        for width in WIDTHS:
            for scheme in SCHEMES:
                tab = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                ).new_page()
                found: list[str] = []
                watch(tab, address, found)
                for page in pages:
                    tab.goto(f"{address}/{page}", wait_until="load")
                    found.extend(check_page(tab, options.axe))
                    if options.screenshots:
                        name = page.replace("/", "_").removesuffix(".html")
                        path = options.screenshots / f"{name}-{width}-{scheme}.png"
                        tab.screenshot(path=path, full_page=options.full)
                    where = f"{page} ({width}, {scheme})"
                    problems += [(problem.replace(address, ""), where) for problem in found]
                    found.clear()
        browser.close()
    return problems


def check_search(options: argparse.Namespace) -> list[str]:
    """Ask the site's search for the words in SEARCHES; return one line for each that misses."""
    from playwright.sync_api import sync_playwright

    address, lines = serve(options.folder), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium)
        tab = browser.new_page()
        for words, wanted in SEARCHES.items():
            tab.goto(f"{address}/search.html?q={quote(words)}")
            tab.wait_for_selector("#search-results p.search-summary")
            tab.wait_for_timeout(500)  # results come one by one
            links = tab.eval_on_selector_all(
                "#search-results ul.search > li > a", "links => links.map(a => a.href)"
            )[:5]
            first = [link.removeprefix(f"{address}/").split("?")[0] for link in links]
            if not any(link.startswith(tuple(wanted)) for link in first):
                lines.append(f"search for {words!r}: {first} instead of {wanted}")
        browser.close()
    return lines


def main() -> int:
    """Check the pages in several processes, then the search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the built site, for instance docs/_build/html")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core; without it, no axe check")
    parser.add_argument("--screenshots", type=Path, help="a folder for an image of every page")
    parser.add_argument("--full", action="store_true", help="screenshots of the whole page")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's executable")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of pages to check")
    parser.add_argument("--jobs", type=int, default=2, help="browsers at the same time")
    options = parser.parse_args()
    pages = sorted(str(p.relative_to(options.folder)) for p in options.folder.rglob("*.html"))
    pages = [
        page
        for page in pages
        if page.startswith(tuple(options.only)) and not page.startswith(("_static", "_downloads"))
    ]
    if not pages:
        raise SystemExit(f"{options.folder} has no page to check; build the site first.")
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    check = functools.partial(check_pages, options=options)
    with ProcessPoolExecutor(options.jobs) as pool:
        shares = [pages[i :: options.jobs] for i in range(options.jobs)]
        problems = [problem for share in pool.map(check, shares) for problem in share]
    places = defaultdict(list)
    for problem, where in problems:
        places[problem].append(where)
    for problem, pages_with_it in sorted(places.items(), key=lambda item: -len(item[1])):
        print(f"{len(pages_with_it)} times: {problem}")
        print(f"    on {', '.join(sorted(pages_with_it)[:4])}")
    missed = check_search(options) if "search.html" in pages else []
    print("\n".join([*missed, f"{len(pages)} pages, {len(problems) + len(missed)} problems"]))
    return bool(problems or missed)


if __name__ == "__main__":
    sys.exit(main())
