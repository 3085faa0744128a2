"""The whole comparison: every strategy at 8, 4, 3 and 2 weight bits, the table and the figures."""

from common import experiment

from qstrategies.experiment.comparison import DEFAULT_BITS, DEFAULT_STRATEGIES

experiment(__doc__, DEFAULT_STRATEGIES, DEFAULT_BITS)
