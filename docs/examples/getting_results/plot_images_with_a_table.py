"""
Images together with tabular data
=================================

Age, sex and site often come with an image. A ``ColumnTransformer`` sends the column of images to
the extractor and each other column to a transformer of its own; the names of columns are
preserved.
"""

# %%
# The data are scikit-learn's digits as image files, with two made-up columns, one of which helps.
import pathlib
import tempfile

import numpy as np
import pandas as pd
from PIL import Image

from sktransfer.datasets import load_digit_screening, load_image_table

task = load_digit_screening(digit=8, positive="eight")
folder = pathlib.Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = []
for i, (image, positive) in enumerate(zip(task.data[:400], task.target[:400], strict=True)):
    Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).save(folder / f"{i:03d}.png")
    rows.append(
        {
            "file": f"{i:03d}.png",
            "diagnosis": task.target_names[positive],
            "age": rng.normal(60 if positive else 50, 12),
            "site": rng.choice(["arm", "back", "face"]),
        }
    )
pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
cases = load_image_table(folder / "cases.csv", target="diagnosis", columns=["age", "site"])
cases.data.drop(columns="image").head()

# %%
# The target has the labels as they are in the table. With ``positive="eight"`` it would be 1 for
# the eights and 0 for the others.
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktransfer import PretrainedFeatureExtractor

features = PretrainedFeatureExtractor(
    "efficientnet_lite0", layer="blocks.2", preprocessing="resize", image_size=48
)
columns = ColumnTransformer(
    [
        ("image", make_pipeline(features, StandardScaler()), ["image"]),
        ("number", StandardScaler(), ["age"]),
        ("category", OneHotEncoder(), ["site"]),
    ]
)
classifier = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
for name, model in {
    "image and table": make_pipeline(columns, classifier),
    "table alone": make_pipeline(ColumnTransformer(columns.transformers[1:]), classifier),
}.items():
    auc = cross_val_score(model, cases.data, cases.target, cv=5, scoring="roc_auc")
    print(f"{name}: ROC AUC {auc.mean():.3f} +/- {auc.std():.3f}")

# %%
# These are some of the features:
columns.fit(cases.data).get_feature_names_out()[[0, 1, -4, -3, -2, -1]]

# %%
# One column for the image
# ------------------------
#
# Trees do better with one good column than with hundreds of weak ones. A first classifier makes a
# score of each image, out of fold: no row is scored by a classifier that was fitted to it. The
# image of every tenth case is missing; trees take NaN as it is.
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import OrdinalEncoder

from sktransfer.model_selection import OutOfFoldTransformer

incomplete = cases.data.copy()
incomplete.loc[::10, "image"] = None
probe = make_pipeline(features, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
with_score = ColumnTransformer(
    [
        ("image", OutOfFoldTransformer(probe), ["image"]),
        ("number", "passthrough", ["age"]),
        ("category", OrdinalEncoder(), ["site"]),
    ]
).set_output(transform="pandas")
trees = make_pipeline(with_score, HistGradientBoostingClassifier(max_iter=50, random_state=0))
auc = cross_val_score(trees, incomplete, cases.target, cv=5, scoring="roc_auc")
print(f"image score and table: ROC AUC {auc.mean():.3f} +/- {auc.std():.3f}")

# %%
# What the trees are fitted to:
with_score.fit_transform(incomplete, cases.target).head(3)
