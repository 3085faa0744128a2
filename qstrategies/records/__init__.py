"""The frozen values that pass between the stages, and their JSON. Imports no torch."""

from qstrategies.records.checkpoint import Checkpoint as Checkpoint
from qstrategies.records.configs import CHECKS as CHECKS
from qstrategies.records.configs import ENGINES as ENGINES
from qstrategies.records.configs import FORMS as FORMS
from qstrategies.records.configs import OBSERVERS as OBSERVERS
from qstrategies.records.configs import OPTIMIZERS as OPTIMIZERS
from qstrategies.records.configs import PIXELS as PIXELS
from qstrategies.records.configs import PRESETS as PRESETS
from qstrategies.records.configs import SATURATIONS as SATURATIONS
from qstrategies.records.configs import SCHEDULES as SCHEDULES
from qstrategies.records.configs import ExperimentConfig as ExperimentConfig
from qstrategies.records.configs import QuantizationConfig as QuantizationConfig
from qstrategies.records.configs import TrainingConfig as TrainingConfig
from qstrategies.records.configs import Widths as Widths
from qstrategies.records.labels import labels as labels
from qstrategies.records.levels import LEVELS as LEVELS
from qstrategies.records.levels import LevelSet as LevelSet
from qstrategies.records.metric import ACCURACY as ACCURACY
from qstrategies.records.metric import Metric as Metric
from qstrategies.records.parts import Environment as Environment
from qstrategies.records.parts import Epoch as Epoch
from qstrategies.records.parts import RuntimeCheck as RuntimeCheck
from qstrategies.records.parts import Skipped as Skipped
from qstrategies.records.parts import Speed as Speed
from qstrategies.records.parts import WeightHistogram as WeightHistogram
from qstrategies.records.parts import machine_class as machine_class
from qstrategies.records.results import FIGURES as FIGURES
from qstrategies.records.results import GROUPS as GROUPS
from qstrategies.records.results import MEASURED as MEASURED
from qstrategies.records.results import RECORD as RECORD
from qstrategies.records.results import SEAL as SEAL
from qstrategies.records.results import RunRecord as RunRecord
from qstrategies.records.results import read_record as read_record
from qstrategies.typed_json import content_key as content_key

MARGIN = 0.001
"""A difference of accuracies, as a fraction, that does not matter, where the user names none."""
