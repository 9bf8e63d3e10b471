"""Images that are not like those of fit: found one by one, refused, and tested for in groups."""

from sktransfer.novelty._detector import NoveltyDetector
from sktransfer.novelty._drift import DriftReport
from sktransfer.novelty._gate import NoveltyGate

__all__ = ["DriftReport", "NoveltyDetector", "NoveltyGate"]
