"""Which network, which layer, which strategy: scores, distances, rankings and advice."""

from sktransfer.selection._calibration import Threshold
from sktransfer.selection._display import BackboneRankingDisplay
from sktransfer.selection._distance import DomainDistance, domain_distance
from sktransfer.selection._hscore import h_score
from sktransfer.selection._leep import leep_score, nce_score
from sktransfer.selection._logme import logme_score
from sktransfer.selection._neighbours import knn_decisions, knn_score
from sktransfer.selection._ranking import BackboneRanking, rank_backbones
from sktransfer.selection._ridge import loo_ridge_decisions, loo_ridge_score
from sktransfer.selection._strategy import StrategyAdvice, recommend_strategy

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
]
