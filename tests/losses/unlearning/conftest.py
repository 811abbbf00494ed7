"""A linear network in float64 and batches for it: every gradient has a closed form."""

import numpy as np
import pytest
import torch
from torch import nn

CLASSES, SIZE = 4, (1, 2, 3)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)

    def features(self, image):
        return image.flatten(1)

    def head(self, features):
        return self.linear(features)

    def forward(self, image):
        return self.head(self.features(image))


class ClosedForm:
    """Expected losses and gradients from (B, K) gradients with respect to the logits, in numpy."""

    @staticmethod
    def softmax(logits):
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    @staticmethod
    def logits(net, batch):
        weight, bias = (p.detach().numpy() for p in net.parameters())
        return batch["image"].flatten(1).numpy() @ weight.T + bias

    @classmethod
    def cross_entropy(cls, z, label):
        """(B,) losses and (B, K) gradients."""
        p = cls.softmax(z)
        return -np.log(p[np.arange(len(z)), label]), p - np.eye(z.shape[1])[np.asarray(label)]

    @classmethod
    def divergence(cls, z, reference, temperature=1.0):
        """KL(reference || student) · T² and its gradient T · (p - q)."""
        p, q = cls.softmax(z / temperature), cls.softmax(reference / temperature)
        return (q * np.log(q / p)).sum(1) * temperature**2, temperature * (p - q)

    @staticmethod
    def check(objective, net, batch, context, *pieces):
        """Compare with Σ over pieces of (inputs (n, ...), (n,) losses, (n, K) logit gradients), weights included."""
        net.zero_grad()
        step = objective(net, batch, context)
        step.loss.backward()
        value = sum(losses.sum() for _, losses, _ in pieces)
        flat = [np.asarray(inputs).reshape(len(inputs), -1) for inputs, _, _ in pieces]
        weight = sum(g.T @ x for x, (_, _, g) in zip(flat, pieces, strict=True))
        bias = sum(g.sum(0) for _, _, g in pieces)
        np.testing.assert_allclose(step.loss.item(), value, rtol=1e-12)
        np.testing.assert_allclose(net.linear.weight.grad.numpy(), weight, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(net.linear.bias.grad.numpy(), bias, rtol=1e-10, atol=1e-12)
        return step


@pytest.fixture
def closed():
    return ClosedForm


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Linear().double()


@pytest.fixture
def original():
    """What the network was at setup, if it has moved since."""
    torch.manual_seed(4)
    return Linear().double()


def make(rows):
    generator = torch.Generator().manual_seed(int(rows[0]))
    image = torch.rand((len(rows), *SIZE), generator=generator, dtype=torch.float64)
    return {"image": image, "label": torch.tensor(rows) % CLASSES, "index": torch.tensor(rows)}


@pytest.fixture
def forget():
    return make([7, 12, 5])


@pytest.fixture
def retain():
    return make([1, 2, 3, 4, 6])


@pytest.fixture
def mixed(forget, retain):
    """The same samples in one batch, interleaved."""
    order = torch.tensor([3, 0, 4, 5, 1, 6, 2, 7])
    whole = {name: torch.cat((forget[name], retain[name]))[order] for name in forget}
    return {**whole, "forget": order < 3}
