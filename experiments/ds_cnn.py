"""DS-CNN on spoken digits: a depthwise-separable net on another domain, tested with a voice that it
has never heard."""

from common import experiment

experiment(
    __doc__,
    ["no_norm", "qat", "lsq", "cle+adaround"],
    (8, 4),
    model="ds_cnn",
    dataset="spoken_digits",
    preset="speech",
    per_channel=(True, False),
)
