"""The road from a model to its integers.

``capture`` traces it, ``observe`` runs that twice, ``normalize`` makes a graph of forms
(``operators/``) of what is seen, one ``call`` after the other. ``exact_forms`` and ``saturation``
rewrite forms so that every executor can compute them to the same bits, ``place`` says where
quantizers lie; ``prepare`` does all of that. ``calibrate`` shows data to the observers, or ``qat``
trains with fake quantizers in the same places. ``ranges``, ``scales`` and ``rounding`` decide the
numbers, ``decide`` builds the ``integer_graph``, ``selfcheck`` compares it with the float model.
``model`` holds it; ``executables`` compute it in PyTorch.

A strategy is asked on the way: ``recipe`` has its hooks, ``quantizers`` what it may give in their
place, ``propagate`` the batches by which it chooses integers.

Public: ``model.QuantizedModel``; ``training/post_training.py`` and ``training/trainee.py`` walk the
road.
"""
