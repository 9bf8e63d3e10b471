"""Choosing, deciding and validating: splits by group, thresholds, searches over freeze depth."""

from sktransfer.model_selection._depth_curve import curve_of_search, freeze_depth_curve
from sktransfer.model_selection._distance import DomainDistance, domain_distance
from sktransfer.model_selection._distance_thresholds import Threshold
from sktransfer.model_selection._freeze_depth_display import FreezeDepthDisplay
from sktransfer.model_selection._h_score import h_score
from sktransfer.model_selection._leakage import check_leakage
from sktransfer.model_selection._leep import leep_score, nce_score
from sktransfer.model_selection._logme import logme_score
from sktransfer.model_selection._neighbors import knn_decisions, knn_score
from sktransfer.model_selection._operating_point import OperatingPointClassifier
from sktransfer.model_selection._plan_search import plan_search
from sktransfer.model_selection._ranking import BackboneRanking, rank_backbones
from sktransfer.model_selection._ranking_display import BackboneRankingDisplay
from sktransfer.model_selection._ridge import loo_ridge_decisions, loo_ridge_score
from sktransfer.model_selection._split import GroupedValidSplit, grouped_train_test_split
from sktransfer.model_selection._strategy import StrategyAdvice, recommend_strategy

__all__ = [
    "BackboneRanking",
    "BackboneRankingDisplay",
    "DomainDistance",
    "StrategyAdvice",
    "Threshold",
    "domain_distance",
    "h_score",
    "knn_decisions",
    "knn_score",
    "leep_score",
    "logme_score",
    "loo_ridge_decisions",
    "loo_ridge_score",
    "nce_score",
    "rank_backbones",
    "recommend_strategy",
    "FreezeDepthDisplay",
    "GroupedValidSplit",
    "OperatingPointClassifier",
    "check_leakage",
    "curve_of_search",
    "freeze_depth_curve",
    "grouped_train_test_split",
    "plan_search",
]
