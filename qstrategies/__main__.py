"""``python -m qstrategies``."""

import sys

from qstrategies.cli import main

sys.exit(main())
