"""Two processes measure collapse and score training samples of a small backbone on digits."""

import sys

import torch
from foreign import Data, trainer
from processes import report
from small_backbone import Small

from lightning_rectify.callbacks import ExampleScores, NeuralCollapse

torch.set_num_threads(1)
torch.manual_seed(5)
net = Small()
collapse = NeuralCollapse(panel=301, figure_every_n_epochs=1)
run = trainer(sys.argv[1], collapse, devices=2, strategy="ddp", use_distributed_sampler=False)
run.validate(net, Data(), verbose=False)
metrics = {key: float(value) for key, value in run.callback_metrics.items()}
scores = ExampleScores(samples=1797)
run = trainer(
    sys.argv[1], scores, devices=2, strategy="ddp", use_distributed_sampler=False, max_epochs=2, limit_val_batches=0
)
torch.manual_seed(5)
run.fit(Small(lr=0.0), Data(batch=16))
report({"metrics": metrics, "scores": scores.scores()[:256]})
