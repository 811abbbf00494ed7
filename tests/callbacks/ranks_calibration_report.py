"""Two processes validate a foreign module on 301 samples, so one is padding."""

import sys
import warnings

import torch
from foreign import Data, Foreign, trainer
from processes import report

from lightning_rectify.callbacks import CalibrationReport

torch.set_num_threads(1)
torch.manual_seed(5)
net = Foreign()
report_card = CalibrationReport(compare_with={"earlier": f"{sys.argv[1]}/earlier.json"})
run = trainer(sys.argv[1], report_card, devices=2, strategy="ddp", use_distributed_sampler=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run.validate(net, Data(), verbose=False)
report(
    {
        "metrics": {key: float(value) for key, value in run.callback_metrics.items()},
        "warnings": [str(w.message) for w in caught if "sync_dist" in str(w.message)],
    }
)
