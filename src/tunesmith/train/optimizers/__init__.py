"""The optimizers: how parameters are grouped, which class trains them, and how their state is kept in a checkpoint.

`train/optim.py` is the way in. Each file is one kind: plain classes by name (catalog.py), low-rank projections
(lowrank.py), updates inside the backward pass (layerwise.py), blocks of layers (badam_layers.py) or of weights
(badam_ratio.py), several optimizers as one (combined.py).
"""
