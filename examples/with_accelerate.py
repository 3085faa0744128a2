"""Hugging Face accelerate, with gradient accumulation: `python examples/with_accelerate.py`."""

import torch
from accelerate import Accelerator
from digits import PIXEL_SCALE, batches, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import qstrategies as qs


def main(steps: int = 20, parts: int = 2, strategy: str = "qat") -> qs.Trainee:
    """``steps`` steps of the optimizer, each with the gradients of ``parts`` batches."""
    data = batches(steps * parts)
    accelerator = Accelerator(gradient_accumulation_steps=parts)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    loader = DataLoader(data, batch_size=None)  # type: ignore[arg-type, var-annotated]
    model, optimizer, loader = accelerator.prepare(trainee.model, optimizer, loader)
    model.train()
    for images, labels in loader:
        with accelerator.accumulate(model):
            outputs = model(images)
            accelerator.backward(cross_entropy(outputs, labels) + trainee.penalty(outputs))
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                trainee.after_step()
    return trainee


if __name__ == "__main__":
    quantized = main().finish()
    qs.export_onnx(quantized, "digits.onnx")
