"""Whether a difference is real: paired statistics over images and seeds, verdicts, and which
strategy to ship."""

from qstrategies.evidence.candidates import Candidate, Constraints
from qstrategies.evidence.collect import Evidence, conclude, gather
from qstrategies.evidence.paired import holm, mcnemar, paired_difference
from qstrategies.evidence.recommend import Recommendation, recommend
from qstrategies.evidence.verdicts import Comparison, compare_all

__all__ = [
    "Candidate",
    "Comparison",
    "Constraints",
    "Evidence",
    "Recommendation",
    "compare_all",
    "conclude",
    "gather",
    "holm",
    "mcnemar",
    "paired_difference",
    "recommend",
]
