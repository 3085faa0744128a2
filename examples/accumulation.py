"""Gradient accumulation in plain PyTorch: `python examples/accumulation.py`."""

import torch
from digits import PIXEL_SCALE, batches, network
from torch.nn.functional import cross_entropy

import qstrategies as qs


def main(steps: int = 20, parts: int = 2, strategy: str = "qat") -> qs.Trainee:
    """``steps`` steps of the optimizer, each with the gradients of ``parts`` batches."""
    data = batches(steps * parts)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    trainee.model.train()
    for number, (images, labels) in enumerate(data, 1):
        outputs = trainee.model(images)
        loss = cross_entropy(outputs, labels) + trainee.penalty(outputs)
        (loss / parts).backward()
        if number % parts == 0:  # a step is what the optimizer does, not what a batch is
            optimizer.step()
            optimizer.zero_grad()
            trainee.after_step()
    return trainee


if __name__ == "__main__":
    quantized = main().finish()
    qs.export_onnx(quantized, "digits.onnx")
