"""Two processes measure collapse and score training samples of a small backbone on digits."""

import sys

import torch
from foreign import IMAGES, Data, trainer
from processes import report
from small_backbone import Small

from lightning_rectify.callbacks import ExampleScores, NeuralCollapse
from lightning_rectify.errors import RectifyError

torch.set_num_threads(1)
torch.manual_seed(5)
net = Small()
collapse = NeuralCollapse(panel=41, figure_every_n_epochs=1)
run = trainer(sys.argv[1], collapse, devices=2, strategy="ddp", use_distributed_sampler=False)
run.validate(net, Data(), verbose=False)
metrics = {key: float(value) for key, value in run.callback_metrics.items()}
IMAGES[1001] = float("nan")  # on one rank only
try:
    run.validate(net, Data(), verbose=False)
    refused = ""
except RectifyError as error:
    refused = str(error)
IMAGES[1001] = 0.0
scores = ExampleScores(samples=1797)
run = trainer(
    sys.argv[1], scores, devices=2, strategy="ddp", use_distributed_sampler=False, max_epochs=2, limit_val_batches=0
)
torch.manual_seed(5)
run.fit(Small(lr=0.0), Data(batch=16))
report({"metrics": metrics, "refused": refused, "scores": scores.scores()[:256]})
