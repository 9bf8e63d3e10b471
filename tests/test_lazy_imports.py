"""What each import loads: heavy packages are imported when they are first needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# torchvision imports torch._dynamo, and torch's counter of operations imports triton: each takes
# longer than torch itself.
HEAVY = (
    *("torchvision", "torch._dynamo", "triton", "openvino", "timm", "huggingface_hub"),
    *("matplotlib", "pydicom", "captum", "dask", "imblearn", "onnx", "onnxruntime"),
    *("skl2onnx", "onnxscript"),
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
        timeout=300,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_extractor_loads_no_heavy_package_and_no_skorch():
    statement = "from sktransfer import PretrainedFeatureExtractor, list_backbones"
    assert not loaded_after(statement, (*HEAVY, "skorch"))


def test_packages_below_the_estimators_load_no_heavy_package_and_no_skorch():
    statement = "import sktransfer.datasets, sktransfer.metrics, sktransfer.preprocessing"
    assert not loaded_after(statement, (*HEAVY, "skorch"))


def test_the_classifier_and_all_other_packages_load_no_heavy_package():
    statement = (
        "from sktransfer import FineTuneClassifier\n"
        "import sktransfer.inspection, sktransfer.model_selection, sktransfer.report\n"
        "import sktransfer.studies"
    )
    assert not loaded_after(statement, HEAVY)


@pytest.mark.parametrize("arguments", [["--version"], ["report", "--help"]])
def test_the_command_line_and_the_bare_package_load_no_torch(arguments):
    statement = (
        "import sktransfer, sktransfer.exceptions\n"
        "from sktransfer.__main__ import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass"
    )
    assert not loaded_after(statement, ("torch", "sklearn", "numpy", "pandas"))


def test_every_public_name_and_package_is_an_attribute():
    import sktransfer

    for name in sktransfer.__all__:
        assert getattr(sktransfer, name) is not None
        assert name in dir(sktransfer)
    assert sktransfer.metrics.__name__ == "sktransfer.metrics"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sktransfer.nothing
