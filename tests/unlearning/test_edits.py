"""Training-free edits against plain loops in float64, a case by hand, and what they must leave alone."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks
from torch import nn

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.unlearning import SSD, FisherNoise, Influence, TaskVector

EDITS = {
    "SSD": lambda: SSD(alpha=1.2, dampening=0.9),
    "SSD per sample": lambda: SSD(alpha=1.2, dampening=0.9, per_sample=True),
    "Influence": lambda: Influence(alpha=3.0, samples=8, tolerance=1e-9),
    "FisherNoise": lambda: FisherNoise(1e-7),
    "TaskVector": lambda: TaskVector(2.0, lr=0.1, epochs=2),
}


def make(rows):
    rows = torch.as_tensor(rows)
    image = torch.rand((64, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"image": image[rows], "label": (rows * 7 // 3) % 4, "index": rows}


FORGET, RETAIN = [make(range(4)), make(range(4, 7))], [make(range(10, 16)), make(range(16, 22))]


@pytest.fixture
def network():
    torch.manual_seed(0)
    built = ResNet(4, 1, width=2).double()
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
    return built


def reference_gradients(network, batches, each):
    """Gradients of the mean loss of each batch, or of each sample, by plain backward passes; (n, P)."""
    network = copy.deepcopy(network).eval()
    found = []
    for batch in batches:
        rows = range(len(batch["label"])) if each else [slice(None)]
        for row in rows:
            network.zero_grad()
            image, label = batch["image"][row], batch["label"][row]
            F.cross_entropy(network(image[None] if each else image), label[None] if each else label).backward()
            found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    return torch.stack(found)


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("each", [False, True])
def test_ssd_equals_a_plain_loop(network, each):
    forget, both = (reference_gradients(network, b, each).square().mean(0) for b in (FORGET, FORGET + RETAIN))
    before = flat(network)
    expected = torch.where(forget > 1.2 * both, before * torch.clamp(0.9 * both / forget, max=1), before)
    SSD(1.2, 0.9, per_sample=each).apply(network, FORGET, RETAIN)
    torch.testing.assert_close(flat(network), expected, rtol=1e-10, atol=1e-14)
    moved = (expected != before).double().mean()
    assert 0.05 < moved < 0.95
    assert torch.equal(flat(network)[expected == before], before[expected == before])  # bit for bit


class Slope(nn.Module):
    """Logits (0, w·x) for two features; the gradient of -log p(1) is -(1 - p)·x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, image):
        z = image.flatten(1) @ self.weight
        return torch.stack((torch.zeros_like(z), z), 1)


def test_ssd_by_hand():
    """At w = (2, 2) - made of 0 logits by x·w = 0 - only the weight that the forgotten sample feels is dampened."""
    network = Slope()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([2.0, 2.0]))
    one = {"label": torch.tensor([1]), "index": torch.tensor([0])}
    # z = 0 for both, so the gradient is -x/2: forget (4, -4)/2, retain (1, -1)/2
    forget = [{**one, "image": torch.tensor([[4.0, -4.0]], dtype=torch.float64)}]
    retain = [{**one, "image": torch.tensor([[1.0, -1.0]], dtype=torch.float64), "index": torch.tensor([1])}]
    SSD(alpha=1.5).apply(network, forget, retain)
    # F_forget = 4, F = (4 + 0.25) / 2 = 2.125: 4 > 1.5 · 2.125, so both weights times 2.125 / 4
    np.testing.assert_allclose(network.weight.detach(), [2 * 0.53125, 2 * 0.53125])
    again = Slope()
    with torch.no_grad():
        again.weight.copy_(torch.tensor([2.0, 2.0]))
    SSD(alpha=1.9).apply(again, forget, retain)  # 4 < 1.9 · 2.125
    assert again.weight.tolist() == [2.0, 2.0]


def test_influence_equals_the_dense_inverse(network):
    forget, retain = (reference_gradients(network, b, True) for b in (FORGET, RETAIN))
    n_f, n_r = len(forget), len(retain)
    # from the mean over all samples to that over the retained ones, by weights of the samples
    v = torch.cat((forget, retain)).mean(0) - retain.mean(0)
    first = retain[:8]
    fisher = first.T @ first / 8
    step = torch.linalg.solve(0.5 * torch.eye(len(v), dtype=v.dtype) + fisher, v)
    assert (n_f, n_r) == (7, 12)
    before = flat(network)
    Influence(alpha=3.0, samples=8, damping=0.5, tolerance=1e-10).apply(network, FORGET, RETAIN)
    torch.testing.assert_close(flat(network), before + 3.0 * step, rtol=1e-8, atol=1e-10)


class Attention(nn.Module):
    """Rows of an image attend to each other by torch's own function."""

    def __init__(self):
        super().__init__()
        self.project, self.classifier = nn.Linear(8, 12), nn.Linear(4, 4)

    def forward(self, image):
        q, k, v = self.project(image).split(4, -1)
        return self.classifier(F.scaled_dot_product_attention(q, k, v).mean((1, 2)))


@pytest.mark.filterwarnings("error:There is a performance drop")
def test_attention_has_derivatives_of_every_kind():
    torch.manual_seed(0)
    first = Attention().double()
    second, before = copy.deepcopy(first), flat(first)
    forget, retain = (reference_gradients(first, b, True) for b in (FORGET, RETAIN))
    v = torch.cat((forget, retain)).mean(0) - retain.mean(0)
    step = torch.linalg.solve(torch.eye(len(v), dtype=v.dtype) + retain.T @ retain / len(retain), v)
    Influence(tolerance=1e-10).apply(first, FORGET, RETAIN)
    torch.testing.assert_close(flat(first), before + step, rtol=1e-8, atol=1e-10)
    own, everywhere = (g.square().mean(0) for g in (forget, torch.cat((forget, retain))))
    SSD(1.1, per_sample=True).apply(second, FORGET, RETAIN)
    expected = torch.where(own > 1.1 * everywhere, before * (everywhere / own).clamp(max=1), before)
    felt = everywhere > 1e-20  # a bias of all keys cancels in the softmax: its gradient is rounding alone
    torch.testing.assert_close(flat(second)[felt], expected[felt], rtol=1e-10, atol=1e-14)
    assert (~felt).sum() == 4


def test_fisher_noise_has_its_deviation(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    fisher = reference_gradients(network, RETAIN, True).square().mean(0)
    alpha = 1e-6 * fisher.median().item()  # so that about half of the deviations are at the bound
    deviation = (alpha / fisher).sqrt().clamp(max=1e-3)
    assert 0.3 < (deviation < 1e-3).double().mean() < 0.7
    deviation[-36:] *= 10  # the head
    before, draws = flat(network), []
    for seed in range(60):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        noisy = copy.deepcopy(network)
        FisherNoise(alpha).apply(noisy, FORGET, RETAIN)
        draws.append((flat(noisy) - before) / deviation)
    drawn = torch.stack(draws)
    assert drawn.std(0).mean().item() == pytest.approx(1, abs=0.03)
    assert drawn.std(0).min() > 0.6 and drawn.std(0).max() < 1.5
    assert drawn.mean(0).abs().max() < 0.7


def test_task_vector_goes_back_along_plain_sgd(network):
    tuned = copy.deepcopy(network).eval()
    optimizer = torch.optim.SGD(tuned.parameters(), 0.1)
    for _ in range(2):
        for batch in FORGET:
            optimizer.zero_grad()
            F.cross_entropy(tuned(batch["image"]), batch["label"]).backward()
            optimizer.step()
    before = flat(network)
    TaskVector(2.0, lr=0.1, epochs=2).apply(network, FORGET, RETAIN)
    torch.testing.assert_close(flat(network), before - 2 * (flat(tuned) - before), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", EDITS)
def test_nothing_else_is_touched(name, network):
    network.train()
    network.stem[0].weight.requires_grad_(False)
    network.classifier.bias.grad = torch.ones(4, dtype=torch.float64)
    frozen, buffers = network.stem[0].weight.clone(), {n: b.clone() for n, b in network.named_buffers()}
    before, state = flat(network), torch.get_rng_state()
    EDITS[name]().apply(network, FORGET, RETAIN)
    assert not torch.equal(flat(network), before)
    assert torch.equal(network.stem[0].weight, frozen) and not network.stem[0].weight.requires_grad
    assert all(torch.equal(b, buffers[n]) for n, b in network.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and all(module.training for module in network.modules())
    assert network.classifier.bias.grad.tolist() == [1.0] * 4 and network.classifier.weight.grad is None
    assert network.classifier.bias.requires_grad


@pytest.mark.parametrize("name", ["SSD per sample", "Influence", "TaskVector"])
def test_repeated_samples_and_bytes_count_as_the_plain_ones(name, network):
    network = network.float()
    grey = [{**b, "image": (b["image"] * 255).round().to(torch.uint8)} for b in FORGET]
    plain = [{**b, "image": b["image"].float() / 255} for b in grey]
    padded = [grey[0], {key: torch.cat((value, grey[0][key][:2])) for key, value in grey[1].items()}]
    retain = [{**b, "image": b["image"].float()} for b in RETAIN]
    a, b = copy.deepcopy(network), copy.deepcopy(network)
    EDITS[name]().apply(a, plain, retain)
    EDITS[name]().apply(b, padded, retain)
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", EDITS)
def test_frozen_networks_and_empty_sets_are_refused(name, network):
    edit, before = EDITS[name](), flat(network)
    kept = name == "FisherNoise"
    with pytest.raises(RectifyError, match=f"the {'retain' if kept else 'forget'} set is empty"):
        edit.apply(network, *((FORGET, []) if kept else ([], RETAIN)))
    with pytest.raises(RectifyError, match="no weight of the backbone requires a gradient"):
        edit.apply(network.requires_grad_(False), FORGET, RETAIN)
    assert torch.equal(flat(network), before)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SSD(alpha=0), "alpha is 0"),
        (lambda: SSD(dampening=0), "dampening is 0"),
        (lambda: Influence(samples=0), "samples is 0"),
        (lambda: Influence(iterations=0), "iterations is 0"),
        (lambda: Influence(damping=0), "damping is 0"),
        (lambda: Influence(tolerance=0), "tolerance is 0"),
        (lambda: FisherNoise(alpha=-1), "alpha is -1"),
        (lambda: FisherNoise(largest=-1), "largest is -1"),
        (lambda: TaskVector(scale=-1), "scale is -1"),
        (lambda: TaskVector(lr=0), "lr is 0"),
        (lambda: TaskVector(epochs=0), "epochs is 0"),
    ],
)
def test_values_out_of_range_are_refused(build, words):
    with pytest.raises(RectifyError, match=words):
        build()


def test_two_processes_edit_as_one():
    """Rank 1 has fewer samples, and a batch of nothing but padding."""
    script = Path(__file__).with_name("ranks_edits.py")
    one, two = runpy.run_path(str(script))["results"](0, 1), run_ranks(script)
    for name, weights in one.items():
        for report in two:
            np.testing.assert_allclose(report[name], weights, rtol=1e-6, atol=1e-9, err_msg=name)
        assert two[0][name] == two[1][name]  # bit for bit: the ranks go on with equal weights
