"""Where the loss of post-training quantization comes from, measured on examples, and what to try
next."""

from qstrategies.diagnosis.diagnose import Diagnosis, Trial, diagnose, diagnose_calibrated
from qstrategies.diagnosis.findings import Finding
from qstrategies.diagnosis.measure import Site

__all__ = ["Diagnosis", "Finding", "Site", "Trial", "diagnose", "diagnose_calibrated"]
