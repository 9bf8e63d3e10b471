"""Choosing and validating: splits by group, thresholds, networks and how deep to freeze them."""

from sktransfer.model_selection._acceptance import acceptance_test
from sktransfer.model_selection._acceptance_plan import acceptance_sample_size
from sktransfer.model_selection._domain_distance import DomainDistance, domain_distance
from sktransfer.model_selection._feature_scores import (
    h_score,
    knn_score,
    leep_score,
    logme_score,
    loo_ridge_score,
    nce_score,
)
from sktransfer.model_selection._freeze_depth import FreezeDepthDisplay, freeze_depth_curve
from sktransfer.model_selection._intervals import cross_val_difference, cross_val_interval
from sktransfer.model_selection._leakage import check_leakage
from sktransfer.model_selection._operating_point import OperatingPointClassifier
from sktransfer.model_selection._out_of_fold_transformer import OutOfFoldTransformer
from sktransfer.model_selection._plan_search import plan_search
from sktransfer.model_selection._ranking import (
    BackboneRanking,
    BackboneRankingDisplay,
    rank_backbones,
)
from sktransfer.model_selection._split import (
    GroupedValidSplit,
    MultilabelStratifiedGroupKFold,
    grouped_train_test_split,
)
from sktransfer.model_selection._strategy import StrategyAdvice, recommend_strategy
from sktransfer.model_selection._triage import TriageClassifier
from sktransfer.model_selection._triage_display import TriageDisplay

__all__ = [
    "BackboneRanking",
    "BackboneRankingDisplay",
    "DomainDistance",
    "FreezeDepthDisplay",
    "GroupedValidSplit",
    "MultilabelStratifiedGroupKFold",
    "OperatingPointClassifier",
    "OutOfFoldTransformer",
    "StrategyAdvice",
    "TriageClassifier",
    "TriageDisplay",
    "acceptance_sample_size",
    "acceptance_test",
    "check_leakage",
    "cross_val_difference",
    "cross_val_interval",
    "domain_distance",
    "freeze_depth_curve",
    "grouped_train_test_split",
    "h_score",
    "knn_score",
    "leep_score",
    "logme_score",
    "loo_ridge_score",
    "nce_score",
    "plan_search",
    "rank_backbones",
    "recommend_strategy",
]
