"""The forms X may come in, made of one array and the files it was written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

FORMS = {
    "4-D array": lambda X, names: X,
    "float array": lambda X, names: X / 255,
    "torch tensor": lambda X, names: torch.from_numpy(X).permute(0, 3, 1, 2),
    "2-D array": lambda X, names: X.reshape(len(X), -1),
    "list of paths": lambda X, names: names,
    "list of pathlib": lambda X, names: [Path(name) for name in names],
    "list of bytes": lambda X, names: [Path(name).read_bytes() for name in names],
    "list of PIL": lambda X, names: [Image.fromarray(image) for image in X],
    "object array": lambda X, names: np.array(names, dtype=object),
    "(n, 1) object array": lambda X, names: np.array(names, dtype=object)[:, None],
    "Series": lambda X, names: pd.Series(names, name="scan"),
    "DataFrame": lambda X, names: pd.DataFrame({"scan": names}),
    "DataFrame of PIL": lambda X, names: pd.DataFrame(
        {"scan": pd.Series([Image.fromarray(image) for image in X], dtype=object)}
    ),
}


def rows(X, index):
    return (
        X.iloc[index]
        if hasattr(X, "iloc")
        else ([X[i] for i in index] if isinstance(X, list) else X[index])
    )
