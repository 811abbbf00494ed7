"""Means are weighted by samples, and terms that only some steps have are averaged over those."""

import torch

from lightning_rectify.lightning_modules import TermMeans


def test_means_are_weighted_by_samples():
    means = TermMeans()
    means.update({"loss": torch.tensor(1.0), "share": 0.5}, 3, torch.device("cpu"))
    means.update({"loss": torch.tensor(5.0), "share": 0.0}, 1, torch.device("cpu"))
    means.update({"loss": torch.tensor(2.0), "other": torch.tensor(7.0)}, 4, torch.device("cpu"))
    values = {name: float(value) for name, value in means.compute().items()}
    assert values == {"loss": (3 * 1 + 5 + 4 * 2) / 8, "share": 1.5 / 4, "other": 7.0}
    assert means.compute() == {}


def test_terms_do_not_keep_a_graph():
    means = TermMeans()
    means.update({"loss": torch.ones((), requires_grad=True) * 2}, 1, torch.device("cpu"))
    assert not means.compute()["loss"].requires_grad
