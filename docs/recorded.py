"""Examples on images that may not be copied: runs them here, shows there what they gave.

    SKTRANSFER_EXAMPLE_DATA=... python docs/recorded.py [NAME ...]

Scripts of the gallery named ``plot_*`` are run by the build. All others read a folder of real
images, which few machines have. This script runs them and writes their figures, and the text that
they print, to ``docs/_static/gallery``; as an extension of Sphinx, it puts them below the code that
gave them. Each is kept with a digest of its code, so that a build fails where code has changed
since.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "_static" / "gallery"
# Figures have two pixels for each that they take on the page.
DPI = 200
LARGEST = 120_000


def scripts() -> dict[str, Path]:
    """The examples that the build does not run, by name."""
    found = sorted((DOCS / "examples").glob("*/*.py"))
    return {path.stem: path for path in found if not path.name.startswith("plot_")}


def code_blocks(path: Path) -> list[str]:
    """The code of a script, divided as on its page."""
    source = path.read_text().split('"""', 2)[2]
    source = re.sub(r"^# sphinx_gallery_.*\n", "", source, flags=re.M)
    return [text for text in re.split(r"^# %%\n(?:#.*\n)*", source, flags=re.M) if text.strip()]


def digest(code: str) -> str:
    """Digest of a block of code, whatever its layout."""
    return hashlib.blake2b(re.sub(r"[\s,()]", "", code).encode(), digest_size=6).hexdigest()


def run_block(code: str, names: dict[str, Any]) -> tuple[str, str]:
    """Run a block; what it prints, and the value of its last line as HTML where it has such."""
    tree = ast.parse(code)
    last: Any = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value: Any = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<example>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<example>", "eval"), names)
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None
    # The theme has a style for tables.
    return printed.getvalue(), re.sub(r"<style scoped>.*?</style>\n?", "", html or "", flags=re.S)


def run(path: Path) -> list[dict[str, Any]]:
    """Run a script; of each block its digest, its text, its HTML and its figures."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    for code in code_blocks(path):
        printed, html = run_block(code, names)
        figures = [plt.figure(number) for number in plt.get_fignums()]
        outputs.append({"code": digest(code), "printed": printed, "html": html, "figures": figures})
        plt.close("all")
    return outputs


def described(figure: Any, otherwise: str) -> str:
    """Text for those who do not see a figure: its titles."""
    titles = [figure.get_suptitle()]
    titles += [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes]
    return "; ".join({" ".join(title.split()): None for title in titles if title}) or otherwise


def record(name: str, path: Path) -> None:
    """Run a script and write what it gave."""
    from PIL import Image

    began = time.perf_counter()
    outputs = run(path)
    seconds = time.perf_counter() - began
    for old in FOLDER.glob(f"{name}_[0-9].webp"):
        old.unlink()
    number = 0
    for output in outputs:
        drawn, output["figures"] = output["figures"], []
        for figure in drawn:
            number += 1
            file = FOLDER / f"{name}_{number}.webp"
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=DPI, format="png")
            with Image.open(buffer) as image:
                image.convert("RGB").save(file, quality=76, method=6)
                width = image.width // 2
            assert file.stat().st_size < LARGEST, f"{file.name}: {file.stat().st_size} bytes"
            text = described(figure, name.replace("_", " "))
            output["figures"].append({"file": file.name, "width": width, "alt": text})
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    kept = [{k: v for k, v in output.items() if v} for output in outputs]
    (FOLDER / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"{name}: {seconds:.0f} s", flush=True)


def setup(app: Any) -> dict[str, Any]:
    """Let Sphinx show what was recorded."""
    from docutils import nodes
    from sphinx.transforms import SphinxTransform
    from sphinx.util import logging

    log = logging.getLogger(__name__)

    def shown(output: dict[str, Any]) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for figure in output.get("figures", []):
            look = {"uri": f"/_static/gallery/{figure['file']}", "alt": figure["alt"]}
            width = f"{figure['width']}px"
            found.append(nodes.image("", **look, width=width, classes=["sphx-glr-single-img"]))
            found.append(nodes.raw("", "<br />", format="html"))
        if text := output.get("printed"):
            look = {"language": "none", "classes": ["sphx-glr-script-out"]}
            found.append(nodes.literal_block(text, text, **look))
        if html := output.get("html"):
            classes = "output_subarea output_html rendered_html output_result"
            found.append(nodes.raw("", f'<div class="{classes}">{html}</div><br />', format="html"))
        return found

    class ShowRecorded(SphinxTransform):
        default_priority = 500  # before images are collected

        def apply(self, **kwargs: Any) -> None:
            name = self.env.docname.rsplit("/", 1)[-1]
            if not self.env.docname.startswith("auto_examples/") or name not in scripts():
                return
            file = FOLDER / f"{name}.json"
            outputs = json.loads(file.read_text()) if file.is_file() else []
            left = {output["code"]: output for output in outputs}
            for block in list(self.document.findall(nodes.literal_block)):
                output = left.pop(digest(block.astext()), None)
                if output is not None:
                    for node in reversed(shown(output)):
                        block.parent.insert(block.parent.index(block) + 1, node)
            if left or not outputs:
                log.warning("%s.py has changed: run python docs/recorded.py %s", name, name)

    app.add_transform(ShowRecorded)
    return {"parallel_read_safe": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*scripts(), []], help="None: all of them.")
    os.environ.setdefault("SKTRANSFER_EXAMPLE_DATA", str(DOCS.parents[1] / "shared" / "data"))
    FOLDER.mkdir(exist_ok=True)
    for name in parser.parse_args().names or scripts():
        record(name, scripts()[name])


if __name__ == "__main__":
    main()
