"""Automatic mixed precision, whose scaler skips steps: `python examples/amp.py`."""

import torch
from digits import PIXEL_SCALE, batches, network
from torch.nn.functional import cross_entropy

import qstrategies as qs


def main(steps: int = 20, scale: float = 2.0**16, strategy: str = "qat") -> qs.Trainee:
    """``steps`` steps of the optimizer, less those for which ``scale`` was too large."""
    data = batches(steps)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainee.model.train()
    for images, labels in data:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = trainee.model(images)
        loss = cross_entropy(outputs.float(), labels) + trainee.penalty(outputs)
        scaler.scale(loss).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scaler.get_scale() >= before:  # else the step was skipped
            trainee.after_step()
    return trainee


if __name__ == "__main__":
    quantized = main().finish()
    qs.export_onnx(quantized, "digits.onnx")
