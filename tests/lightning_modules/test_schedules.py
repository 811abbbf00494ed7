"""Learning rates against torch's own schedulers and by hand."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Constant, Cosine, OneCycle, Steps, Timeline


def rates(build, steps=20, lr=0.4):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    scheduler = build(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_equals_torch():
    assert rates(lambda o: Cosine(final=0.1).build(o, Timeline(20))) == pytest.approx(
        rates(lambda o: CosineAnnealingLR(o, 20, eta_min=0.04))
    )


def test_steps_equal_torch():
    ours = rates(lambda o: Steps([0.5, 0.75], 0.1).build(o, Timeline(20)))
    assert ours == pytest.approx(rates(lambda o: MultiStepLR(o, [10, 15], 0.1)))


def test_milestones_are_shares_of_the_whole_also_with_warmup():
    ours = rates(lambda o: Steps([0.5], 0.1, warmup=0.25).build(o, Timeline(20)))
    assert ours[9] == pytest.approx(0.4) and ours[10] == pytest.approx(0.04)


def test_warmup_rises_linearly_to_the_base_rate():
    ours = rates(lambda o: Constant(warmup=0.25).build(o, Timeline(20)))
    assert ours[:5] == pytest.approx([0.4 * k / 6 for k in range(1, 6)]) and ours[5] == 0.4


def test_one_cycle_peaks_at_its_share():
    ours = rates(lambda o: OneCycle(0.25).build(o, Timeline(20)))
    assert max(ours) == ours[5] == 0.4 and ours[-1] == pytest.approx(0.4 / 15)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Cosine(warmup=1.0), "warmup"),
        (lambda: Steps([0.9, 0.5]), "milestones"),
        (lambda: Steps([1.5]), "milestones"),
    ],
)
def test_bad_shares_are_named(make, key):
    with pytest.raises(RectifyError, match=key):
        make()


def test_unknown_length_is_named():
    with pytest.raises(RectifyError, match="max_epochs"):
        Cosine().build(SGD([torch.nn.Parameter(torch.zeros(1))], 0.1), Timeline())


def test_a_restarted_timeline_reaches_the_end_with_its_last_step():
    timeline = Timeline(100)
    assert [timeline.progress(step) for step in (0, 50, 100, 120)] == [0, 0.5, 1, 1]
    timeline.restart(50, 0.5, 200)  # half the processes: twice the steps for the second half
    assert [timeline.progress(step) for step in (50, 150, 250)] == [0.5, 0.75, 1]
