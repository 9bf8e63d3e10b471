"""Image transfer learning as scikit-learn estimators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sktransfer._version import __version__

if TYPE_CHECKING:
    from sktransfer._backbones import describe_backbone, list_backbones
    from sktransfer._extractor import PretrainedFeatureExtractor
    from sktransfer._finetune import FineTuneClassifier, FineTuneRegressor
    from sktransfer._frozen import cache_info, clear_cache
    from sktransfer._multilabel import MultiLabelLogisticRegression
    from sktransfer._transfer import TransferClassifier
    from sktransfer.deploy._export import export_onnx

__all__ = [
    "FineTuneClassifier",
    "FineTuneRegressor",
    "MultiLabelLogisticRegression",
    "PretrainedFeatureExtractor",
    "TransferClassifier",
    "__version__",
    "cache_info",
    "clear_cache",
    "describe_backbone",
    "export_onnx",
    "list_backbones",
]

# Where each name is defined. It is imported when it is first asked for, so that the command line
# and the public packages that compute on labels alone do not wait for torch.
_DEFINED_IN = {
    "FineTuneClassifier": "_finetune",
    "FineTuneRegressor": "_finetune",
    "MultiLabelLogisticRegression": "_multilabel",
    "PretrainedFeatureExtractor": "_extractor",
    "TransferClassifier": "_transfer",
    "cache_info": "_frozen",
    "clear_cache": "_frozen",
    "describe_backbone": "_backbones",
    "export_onnx": "deploy._export",
    "list_backbones": "_backbones",
}
_PACKAGES = frozenset(
    {
        *("bags", "datasets", "deploy", "exceptions", "inspection", "metrics", "model_selection"),
        *("novelty", "preprocessing", "report", "studies"),
    }
)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"sktransfer.{name}")
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'sktransfer' has no attribute {name!r}")
    value = getattr(import_module(f"sktransfer.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
