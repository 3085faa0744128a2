"""`torch.compile` around the model in training: `python examples/compiled.py`."""

import torch
from digits import PIXEL_SCALE, batches, network
from torch.nn.functional import cross_entropy

import qstrategies as qs


def main(steps: int = 20, backend: str = "aot_eager", strategy: str = "qat") -> qs.Trainee:
    """``steps`` steps of the optimizer. ``backend`` "inductor" needs a C++ compiler."""
    data = batches(steps)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    compiled = torch.compile(trainee.model, backend=backend)  # under a name of its own
    trainee.model.train()
    for images, labels in data:
        outputs = compiled(images)
        loss = cross_entropy(outputs, labels) + trainee.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


if __name__ == "__main__":
    quantized = main().finish()
    qs.export_onnx(quantized, "digits.onnx")
