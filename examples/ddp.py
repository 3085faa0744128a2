"""Two processes on one machine, each with half of every batch: `python examples/ddp.py`."""

import tempfile

import torch
from digits import PIXEL_SCALE, batches, network
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import qstrategies as qs


def work(rank: int, meeting: str, steps: int, strategy: str) -> None:
    distributed.init_process_group("gloo", f"file://{meeting}/point", rank=rank, world_size=2)
    data = batches(2 * steps, size=32)
    trainee = qs.prepare(network(), data[0][0], strategy, input_scale=PIXEL_SCALE)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    parallel = DistributedDataParallel(trainee.model)
    for images, labels in data[rank::2]:
        outputs = parallel(images)
        loss = cross_entropy(outputs, labels) + trainee.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    for buffer in trainee.model.buffers():  # ranges and statistics are those of the first process
        distributed.broadcast(buffer, src=0)
    qs.save(trainee.finish(), f"digits-{rank}.safetensors")
    distributed.destroy_process_group()


def main(steps: int = 20, strategy: str = "qat") -> None:
    with tempfile.TemporaryDirectory() as meeting:
        spawn(work, (meeting, steps, strategy), nprocs=2)


if __name__ == "__main__":
    main()
