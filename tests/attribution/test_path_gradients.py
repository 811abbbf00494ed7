"""Integrated gradients and the SmoothGrad family against closed forms and Captum."""

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from explained import case, trace
from torch import nn

from lightning_rectify.attribution import (
    blurred,
    gradient_times_input,
    input_gradient,
    integrated_gradients,
    noisy_gradients,
    smooth_grad,
    smooth_grad_squared,
    var_grad,
)
from lightning_rectify.errors import RectifyError


class Polynomial(nn.Module):
    """logit_k = Σ w_k·x³: gradients, their path integrals and their noise are known."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, *shape, dtype=torch.float64))

    def forward(self, image):
        return torch.einsum("kchw,bchw->bk", self.weight, image**3)


@pytest.fixture
def cubic():
    return Polynomial((2, 4, 5)), torch.rand(3, 2, 4, 5, dtype=torch.float64), torch.tensor([2, 0, 1])


def test_integrated_gradients_are_complete(cubic):
    net, images, target = cubic
    start = torch.rand_like(images)
    with torch.no_grad():
        rise = (net(images) - net(start)).gather(1, target[:, None]).squeeze(1)
    maps = integrated_gradients(net, images, target, start, steps=2)  # a square is exact with two points
    torch.testing.assert_close(maps.sum((1, 2)), rise)
    torch.testing.assert_close(maps, (net.weight[target] * (images**3 - start**3)).sum(1).detach())


def test_integrated_gradients_and_gradient_times_input_equal_captum():
    net, images, target = case()
    net.eval()
    expected = IntegratedGradients(net).attribute(images, 0.25, target=target, n_steps=20, method="gausslegendre")
    maps = integrated_gradients(net, images, target, 0.25, steps=20, channels="keep")
    torch.testing.assert_close(maps, expected)
    expected = InputXGradient(net).attribute(images.clone(), target=target).detach()
    torch.testing.assert_close(gradient_times_input(net, images, target), expected.sum(1))


def test_noisy_gradients_of_a_cubic_have_the_moments_of_the_noise(cubic):
    net, images, target = cubic
    deviation = 0.2 * (images.flatten(1).amax(1) - images.flatten(1).amin(1)).view(-1, 1, 1, 1)
    weight = 3 * net.weight[target].detach()
    mean, square, variance = noisy_gradients(net, images, target, 4000, 0.2, channels="keep")
    # E(x+e)² = x² + s², var (x+e)² = 4x²s² + 2s⁴
    torch.testing.assert_close(mean, weight * (images**2 + deviation**2), rtol=0.05, atol=0.05)
    exact = weight**2 * (4 * images**2 * deviation**2 + 2 * deviation**4)
    torch.testing.assert_close(variance, exact, rtol=0.25, atol=0.02)
    torch.testing.assert_close(square, variance + mean**2)


@pytest.mark.parametrize(
    ("ours", "kind"), [(smooth_grad, "smoothgrad"), (smooth_grad_squared, "smoothgrad_sq"), (var_grad, "vargrad")]
)
def test_they_equal_captum_on_the_same_noisy_images(ours, kind):
    net, images, target = case()
    net.eval()
    flat = images.flatten(1)
    seen = []
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    maps = ours(net, images, target, samples=6, noise=0.1, channels="keep")
    handle.remove()
    noisy = torch.cat([part.unflatten(0, (-1, 3)) for part in seen])
    assert noisy.shape[0] == 6
    deviation = 0.1 * (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
    noise = (noisy - images) / deviation
    torch.testing.assert_close(noise[:, 0], noise[:, 2])  # all images get the same noise

    class Given(NoiseTunnel):
        def _add_noise(self, inputs):
            return inputs

    import captum.attr._core.noise_tunnel as tunnel

    with pytest.MonkeyPatch.context() as patch:  # Captum draws by the global generator: hand it our noise
        patch.setattr(tunnel.torch, "normal", lambda *_, **__: (noise * deviation).transpose(0, 1).flatten(0, 1))
        tunnelled = NoiseTunnel(Saliency(net))
        expected = tunnelled.attribute(images, target=target, nt_type=kind, nt_samples=6, stdevs=0.1, abs=False)
    torch.testing.assert_close(maps, expected.detach())


def test_a_map_does_not_depend_on_its_batch_and_calls_repeat():
    net, images, target = case()
    before = trace(net)
    whole = smooth_grad(net, images, target, samples=70)  # more than one flat batch
    torch.testing.assert_close(smooth_grad(net, images[1:2], target[1:2], samples=70), whole[1:2])
    assert (var_grad(net, images, target) >= 0).all()
    assert trace(net) == before
    flat = torch.full_like(images, 0.3)  # no range, so no noise: nothing may become negative by rounding
    assert not var_grad(net, flat, target).any()
    torch.testing.assert_close(smooth_grad(net, flat, target), input_gradient(net, flat, target))


def test_blur_keeps_constants_and_mass():
    maps = torch.zeros(1, 31, 31, dtype=torch.float64)
    maps[0, 15, 15] = 1
    spread = blurred(maps, 2.0)
    assert spread.sum() == pytest.approx(1)
    assert spread[0, 15, 17] / spread[0, 15, 15] == pytest.approx(torch.exp(torch.tensor(-0.5)).item())
    torch.testing.assert_close(blurred(torch.ones(1, 5, 5), 1.0), torch.ones(1, 5, 5))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, x, t: integrated_gradients(n, x, t, steps=0), "steps is 0"),
        (lambda n, x, t: integrated_gradients(n, x, t, x[:, :2]), "baseline .* does not fit"),
        (lambda n, x, t: integrated_gradients(n, x, t + 1), "target holds 1 … 4"),
        (lambda n, x, t: smooth_grad(n, x, t, samples=0), "samples is 0"),
        (lambda n, x, t: var_grad(n, x, t, noise=-0.1), "noise -0.1"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call(*case())
