"""Lightning, with one callback: `python examples/with_lightning.py`."""

import lightning
import torch
from digits import PIXEL_SCALE, batches, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import qstrategies as qs


class Module(lightning.LightningModule):
    def __init__(self, trainee: qs.Trainee) -> None:
        super().__init__()
        self.trainee, self.model = trainee, trainee.model

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        outputs = self.model(batch[0])
        return cross_entropy(outputs, batch[1]) + self.trainee.penalty(outputs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trainee.parameter_groups(1e-3), fused=True)


class AfterStep(lightning.Callback):
    def on_train_batch_end(self, trainer: lightning.Trainer, module: Module, *_: object) -> None:
        if trainer.global_step > module.trainee.steps:  # not where gradients are accumulated
            module.trainee.after_step()


def main(steps: int = 20, strategy: str = "qat", **settings: object) -> qs.Trainee:
    data = batches(steps)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    trainer = lightning.Trainer(max_epochs=1, callbacks=[AfterStep()], **settings)
    trainer.fit(Module(trainee), DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return trainee


if __name__ == "__main__":
    qs.export_onnx(main().finish(), "digits.onnx")
