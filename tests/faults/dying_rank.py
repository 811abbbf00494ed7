"""Two processes train together; after a few steps the second one is killed."""

import os
import signal
import sys

import pytorch_lightning as pl
import torch
from faults.tiny_run import train

torch.set_num_threads(1)


def die(module, batch_idx):
    if batch_idx == 3 and module.global_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    strategy = pl.strategies.DDPStrategy(process_group_backend="gloo")
    train(sys.argv[1], on_step=die, devices=2, strategy=strategy)
