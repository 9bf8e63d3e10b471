"""Check the links of the built documentation, without a network.

Usage: ``python tools/check_links.py docs/_build/html``

Every link within the site leads to a page that there is, and to a heading or name on it; every
script, style and image is part of the site, so that it can be read without a network. Links to
other sites are not fetched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements that load what they refer to, and the attributes that say from where.
LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("link", "href"),
}


class Page(HTMLParser):
    """The anchors of a page, and what it refers to: element, attribute and address."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.references: list[tuple[str, str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the anchors and the references of an element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        for name in ("href", "src"):
            # Links to the same page in other languages or addresses load nothing.
            if name in values and values.get("rel") not in ("canonical", "alternate"):
                self.references.append((tag, name, values[name]))


def problems(folder: Path) -> Iterator[str]:
    """Yield a line for each reference that leads nowhere, or loads from another host."""
    pages = {
        path.resolve(): Page(path)
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.relative_to(folder).parts
    }
    if not pages:
        yield f"{folder} has no pages; build the documentation first"
    for path, page in pages.items():
        for tag, name, address in page.references:
            parts = urlsplit(address)
            where = f"{path.relative_to(folder.resolve())}: <{tag} {name}={address!r}>"
            if parts.netloc and (tag, name) in LOADED:
                yield f"{where} is loaded from another host"
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{where} leads to no file"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where} leads to no heading or name on that page"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join([*found, f"{len(found)} broken links in {sys.argv[1]}"]))
    sys.exit(bool(found))
