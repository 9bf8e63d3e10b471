"""What each import loads: heavy packages are imported when they are first needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# torchvision imports torch._dynamo, and torch's counter of operations imports triton: each takes
# longer than torch itself.
HEAVY = (
    *("torchvision", "torch._dynamo", "triton", "openvino", "timm", "huggingface_hub"),
    *("matplotlib", "pydicom", "captum", "dask", "imblearn", "onnx"),
)


def loaded_after(statement: str, modules: tuple[str, ...]) -> set[str]:
    """Return those of some modules that a fresh interpreter holds after running a statement."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\n{statement}\nprint(*({set(modules)!r} & sys.modules.keys()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "from sktransfer import PretrainedFeatureExtractor",
        "from sktransfer import FineTuneClassifier",
        "from sktransfer import list_backbones, describe_backbone, cache_info, clear_cache",
        "import sktransfer.datasets, sktransfer.metrics, sktransfer.preprocessing",
        "import sktransfer.inspection, sktransfer.model_selection, sktransfer.report, "
        "sktransfer.studies",
    ],
)
def test_imports_load_no_heavy_package(statement):
    assert not loaded_after(statement, HEAVY)


def test_the_extractor_does_not_load_skorch():
    assert not loaded_after("from sktransfer import PretrainedFeatureExtractor", ("skorch",))


@pytest.mark.parametrize(
    "statement",
    [
        "import sktransfer",
        "import sktransfer.exceptions",
        "from sktransfer.__main__ import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass",
        "from sktransfer.__main__ import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_the_command_line_and_the_bare_package_load_no_torch(statement):
    assert not loaded_after(statement, ("torch", "sklearn", "numpy", "pandas"))


def test_every_public_name_and_package_is_an_attribute():
    import sktransfer

    for name in sktransfer.__all__:
        assert getattr(sktransfer, name) is not None
        assert name in dir(sktransfer)
    assert sktransfer.metrics.__name__ == "sktransfer.metrics"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sktransfer.nothing
