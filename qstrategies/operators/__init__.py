"""What each operator is, one file per family: everything that the road asks of an operator stands
in its file.

A file holds *forms*, the modules that a normalized graph is made of; *recognizers*, which say what
of a user's model is such a form; and *nodes*, what becomes of a form once its quantizers are
decided: integer semantics in NumPy, the same in float32, the kernels of PyTorch's engines and the
ONNX operators. ``base.py`` has the vocabulary.
"""

from __future__ import annotations

import importlib
import pkgutil

from qstrategies.operators import base

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")

FORMS = base.FORMS
RECOGNIZERS = base.RECOGNIZERS
