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


def test_means_go_on_from_a_state():
    whole, first, second = TermMeans(), TermMeans(), TermMeans()
    batches = [({"loss": torch.tensor(float(k)), "share": k / 4}, k + 1) for k in range(4)]
    for terms, samples in batches:
        whole.update(terms, samples, torch.device("cpu"))
    for terms, samples in batches[:2]:
        first.update(terms, samples, torch.device("cpu"))
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for terms, samples in batches[2:]:
        second.update(terms, samples, torch.device("cpu"))
    assert second.compute() == whole.compute()


def test_terms_do_not_keep_a_graph():
    means = TermMeans()
    means.update({"loss": torch.ones((), requires_grad=True) * 2}, 1, torch.device("cpu"))
    assert not means.compute()["loss"].requires_grad
