"""The contract of every model: it trains in the shared loop, and its int8 model gives the same bits
everywhere."""

import pytest
import torch

import qstrategies as qs
from qstrategies.datasets.spoken_digits import SpokenDigits
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.records import TrainingConfig
from qstrategies.training.loop import train


@pytest.fixture
def packaged(mnist, location):
    """By the shape of its images, what the models are made for."""
    return {(1, 28, 28): mnist, (1, 49, 10): SpokenDigits(location).splits}


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("strategy", ["no_norm", "qat_weight_norm"])
def test_a_trained_model_gives_the_same_bits_everywhere(name, strategy, packaged, tmp_path):
    torch.manual_seed(0)
    model = MODELS.get(name)()
    example = torch.zeros(2, *model.input_shape)
    assert type(model).__doc__ and model(example).shape == (2, 10)
    trainee = qs.prepare(model, example, strategy, input_scale=PIXEL_SCALE)
    data = {
        part: type(split)(part, split.images[:512], split.labels[:512])
        for part, split in packaged[model.input_shape].items()
    }
    train(trainee, data, TrainingConfig(epochs=1, batch_size=32, learning_rate=3e-3), seed=0)
    quantized = trainee.finish([to_input(data["train"].images[:256])])
    report = qs.cross_check(
        qs.export_onnx(quantized, tmp_path / "model.onnx"), data["test"].images[:24]
    )
    assert report.same and set(report.apart) <= {"openvino"}, str(report)  # as is known of it
