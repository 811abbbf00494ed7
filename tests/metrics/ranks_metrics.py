"""Two processes: reduced metrics, and de-duplication of padded samples."""

import torch
from processes import report, start

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import (
    AreaUnderRiskCoverage,
    BufferedCalibrationError,
    CalibrationSums,
    Deduplicator,
    KolmogorovSmirnovError,
    SmoothCalibrationError,
    TopLabelCalibrationError,
)

rank, world = start()
generator = torch.Generator().manual_seed(3)
logits = torch.randn(101, 4, generator=generator) * 3
label = torch.randint(4, (101,), generator=generator)

# a padding sampler: 101 samples on 2 ranks are 51 each, the first sample comes again at the end
order = torch.arange(101) if world == 1 else torch.cat([torch.arange(101), torch.arange(1)])[rank::world]
metric, once = CalibrationSums(4), Deduplicator()
masks = []
for epoch in range(2):
    metric.reset()
    once.reset()
    for index in order.split(16):
        keep = once.keep(index)
        metric.update(logits[index][keep], label[index][keep])
        if epoch:
            masks.append(keep.tolist())
result = metric.compute()

# the rules, spelled out: rank 0 brings 5 6 5, rank 1 brings 6 7, then rank 0 brings 8 7 and rank 1 brings 8 9
rules = Deduplicator()
first = rules.keep(torch.tensor([[5, 6, 5], [6, 7]][rank]))
second = rules.keep(torch.tensor([[8, 7], [8, 9]][rank]))

# the same samples, each once, on uneven ranks
single = {
    "buffered": BufferedCalibrationError(buffer=1000),
    "ks": KolmogorovSmirnovError(),
    "ks_exact": KolmogorovSmirnovError(exact=True),
    "smooth_exact": SmoothCalibrationError(exact=True),
    "aurc_exact": AreaUnderRiskCoverage(exact=True),
}
for index in torch.arange(101)[rank::world].split(16):
    for each in single.values():
        each.update(logits[index], label[index])

# no samples at all, and samples on one rank alone
said = "nothing"
try:
    AreaUnderRiskCoverage(exact=True).compute()
except RectifyError as error:
    said = str(error)
lopsided = AreaUnderRiskCoverage(exact=True)
if rank == 0:
    lopsided.update(logits, label)

# probabilities on one rank alone
sure = TopLabelCalibrationError()
if rank == 0:
    sure.update(logits.softmax(1), label)
try:
    sure.compute()
    refused = "nothing"
except RectifyError as error:
    refused = str(error)

from lightning_rectify.calibration import ClassGaussians  # noqa: E402

gaussians = ClassGaussians(4, 4)
gaussians.update(logits[rank::world], label[rank::world])
gaussians = gaussians.reduce()

report(
    {
        "mean": gaussians.mean,
        "covariance": gaussians.covariance,
        "single": {name: float(each.compute()) for name, each in single.items()},
        "unfed": said,
        "refused": refused,
        "lopsided": float(lopsided.compute()),
        "scores": {name: float(value) for name, value in result.scores.items()},
        "count": result.reliability.count,
        "kept": sum(sum(mask) for mask in masks),
        "rules": [first.tolist(), second.tolist()],
    }
)
