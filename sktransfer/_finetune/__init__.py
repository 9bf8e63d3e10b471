"""FineTuneClassifier, FineTuneRegressor, and the only place that knows skorch.

``_fitting`` says how a fit runs.
"""

from sktransfer._finetune._activations import as_size
from sktransfer._finetune._estimator import FineTuneClassifier
from sktransfer._finetune._fitting import FrozenPart
from sktransfer._finetune._regressor import FineTuneRegressor

__all__ = [
    "FineTuneClassifier",
    "FineTuneRegressor",
    "FrozenPart",
    "as_size",
]
