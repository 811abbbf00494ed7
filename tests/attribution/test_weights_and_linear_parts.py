"""Meta-saliency against a copied network, and LinearScope against full Jacobians."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from explained import case, trace
from torch import nn

from lightning_rectify.attribution import (
    combine_layers,
    grad_cam,
    input_gradient,
    jacobian_rows,
    linear_interpreter,
    meta_saliency,
    norm_grad,
    patch_grid,
    top_singular_images,
)
from lightning_rectify.errors import RectifyError


def copied(net, images, target, saliency, step):
    """Each image's map of a deep copy that took the step."""
    maps = []
    for place in range(len(images)):
        image, label = images[place : place + 1], target[place : place + 1]
        twin = copy.deepcopy(net).eval()
        F.cross_entropy(twin(image), label).backward()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= step * parameter.grad
        maps.append(saliency(twin, image, label))
    return torch.cat(maps)


METHODS = {
    "gradient": input_gradient,
    "norm_grad": lambda net, x, t: norm_grad(net, x, t, "deep"),
    "grad_cam": lambda net, x, t: grad_cam(net, x, t, "deep.0"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("adverse", [False, True])
def test_meta_saliency_equals_a_copied_and_stepped_network(name, adverse):
    net, images, target = case()
    before = trace(net)
    maps = meta_saliency(net, images, target, METHODS[name], step=0.3, adverse=adverse)
    assert trace(net) == before  # values, versions and identities of the parameters, modes, hooks, random state
    expected = copied(net, images, target, METHODS[name], -0.3 if adverse else 0.3)
    torch.testing.assert_close(maps, expected)
    assert not torch.allclose(maps, METHODS[name](net, images, target), rtol=1e-3)


def test_a_step_together_depends_on_the_batch_and_alone_does_not():
    net, images, target = case()
    alone = meta_saliency(net, images, target, input_gradient, step=0.3)
    torch.testing.assert_close(meta_saliency(net, images[:1], target[:1], input_gradient, step=0.3), alone[:1])
    together = meta_saliency(net, images, target, input_gradient, step=0.3, together=True)
    assert not torch.allclose(together, alone)
    torch.testing.assert_close(
        meta_saliency(net, images, target, input_gradient, step=0.0), input_gradient(net, images, target)
    )


def test_the_linear_part_is_the_jacobian_times_the_image():
    net, images, _ = case()
    before = trace(net)
    scope = linear_interpreter(net, images)
    assert trace(net) == before
    net.eval()
    for place in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], images[place])
        torch.testing.assert_close(scope.linear[place], (jacobian * images[place]).sum((1, 2, 3)))
        torch.testing.assert_close(jacobian_rows(net, images[place], chunk=3), jacobian)
    torch.testing.assert_close(scope.logits, net(images).detach())
    # doubling all biases and running means doubles the bias part only while the gates hold; without biases it is 0
    bare, images, _ = case(bias=False)
    assert linear_interpreter(bare, images).bias_share.max() < 1e-12
    assert (scope.bias_share > 0).all() and (scope.bias_share < 1).all()


def test_the_linear_part_goes_through_fused_attention():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, image):
            tokens = self.inner(image.flatten(1).unflatten(1, (1, -1, 4)))
            return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2)))

    net, images = Attending(), torch.rand(2, 2, 4, 4)
    scope = linear_interpreter(net, images)
    for place in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], images[place])
        torch.testing.assert_close(scope.linear[place], (jacobian * images[place]).sum((1, 2, 3)))
        torch.testing.assert_close(jacobian_rows(net, images[place]), jacobian)


def test_the_linear_part_goes_through_the_attention_module_of_torch():
    """In eval mode it takes a fast path without forward-mode derivative where no weight wants a gradient."""
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3).double().eval()
    torch.nn.init.normal_(net.heads.head.weight)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    scope, fast = linear_interpreter(net, images), torch.backends.mha.get_fastpath_enabled()
    assert fast
    for place in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], images[place])
        torch.testing.assert_close(scope.linear[place], (jacobian * images[place]).sum((1, 2, 3)))
        torch.testing.assert_close(jacobian_rows(net, images[place]), jacobian)


def test_top_singular_images_of_a_linear_network():
    weight = torch.randn(4, 12, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4).double())
    net[1].weight.data = weight
    values, images, logits = top_singular_images(net, torch.rand(3, 2, 2, dtype=torch.float64), 3)
    torch.testing.assert_close(values, torch.linalg.svdvals(weight)[:3])
    for place in range(3):
        moved = weight @ images[place].flatten()
        torch.testing.assert_close(moved, values[place] * logits[place])
        assert images[place].norm() == pytest.approx(1)


def test_layers_are_combined_after_scaling_each():
    first = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    second = torch.tensor([[[10.0, 20.0], [20.0, 10.0]]])
    # scaled: 0 .25 .5 1 and 0 1 1 0
    assert combine_layers([first, second], "arithmetic").flatten().tolist() == [0, 0.625, 0.75, 0.5]
    assert combine_layers({"a": first, "b": second}).flatten().tolist() == pytest.approx([0, 0.5, 0.5**0.5, 0])
    linear = combine_layers([first, second], "geometric", "linear").flatten().tolist()
    assert linear == pytest.approx([0, 0.25 ** (1 / 3), 0.5 ** (1 / 3), 0])
    assert combine_layers([first, second], weights=[1, 0]).flatten().tolist() == pytest.approx([0, 0.25, 0.5, 1])


def test_patch_grid_in_row_order():
    tokens = torch.arange(1 + 6.0)[None, :, None]
    assert patch_grid(tokens, (20, 30)).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert patch_grid(torch.rand(2, 5 + 196, 8), (224, 224)).shape == (2, 8, 14, 14)
    assert patch_grid(torch.rand(2, 16, 8), (32, 32)).shape == (2, 8, 4, 4)
    with pytest.raises(RectifyError, match="7 tokens are no grid of patches of an image 224x20"):
        patch_grid(torch.rand(2, 7, 8), (224, 20))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, x, t: meta_saliency(n, x, t, input_gradient, step=float("nan")), "step is nan"),
        (
            lambda n, x, t: meta_saliency(n, x, t + 1, input_gradient),
            "target holds",
        ),
        (lambda n, x, t: meta_saliency(n.deep, x.repeat(1, 2, 1, 1), t, input_gradient), r"Sequential\(image\) must"),
        (lambda n, x, t: jacobian_rows(n, x), "takes one image"),
        (lambda n, x, t: top_singular_images(n, x[0], 5), "count is 5; give 1 to 4"),
        (lambda n, x, t: combine_layers([]), "give some, of one shape"),
        (lambda n, x, t: combine_layers([x[:, 0]], weights="quadratic"), "weights has no 'quadratic'"),
        (lambda n, x, t: combine_layers([x[:, 0]], weights=[1, 2]), "for 1 layers"),
        (lambda n, x, t: combine_layers([x[:, 0]], "harmonic"), "choose geometric or arithmetic"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(RectifyError, match=words):
        call(*case())
