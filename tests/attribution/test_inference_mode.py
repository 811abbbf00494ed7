"""Every function gives in `no_grad` and `inference_mode`, with inputs made there, what it gives outside."""

import pytest
import torch
from explained import case, trace

from lightning_rectify.attribution import (
    class_sensitivity,
    deep_lift,
    deep_lift_shap,
    disconnected_grid_game,
    grad_cam,
    gradient_shap,
    gradient_times_input,
    input_gradient,
    insertion_deletion,
    integrated_gradients,
    jacobian_rows,
    kernel_shap,
    label_leakage,
    layer_masked_logits,
    linear_approximation,
    linear_interpreter,
    lrp,
    map_infidelity,
    map_sensitivity,
    masking_contrast,
    meta_saliency,
    norm_grad,
    norm_grad_layers,
    rise,
    smooth_grad,
    sobol,
    top_singular_images,
)


def four(x):
    return x[:1].repeat(4, *[1] * (x.ndim - 1))


CALLS = {
    "input_gradient": lambda n, x, t: input_gradient(n, x, t),
    "gradient_times_input": lambda n, x, t: gradient_times_input(n, x, t),
    "integrated_gradients": lambda n, x, t: integrated_gradients(n, x, t, x / 2),
    "smooth_grad": lambda n, x, t: smooth_grad(n, x, t),
    "grad_cam": lambda n, x, t: grad_cam(n, x, t, "deep"),
    "linear_approximation": lambda n, x, t: linear_approximation(n, x, t, "deep"),
    "norm_grad": lambda n, x, t: norm_grad(n, x, t, "conv", "conv"),
    "norm_grad_layers": lambda n, x, t: norm_grad_layers(n, x, t)["conv"],
    "class_sensitivity": lambda n, x, t: class_sensitivity(n, x)["conv"],
    "meta_saliency": lambda n, x, t: meta_saliency(n, x, t, lambda m, x, t: norm_grad(m, x, t, "deep")),
    "rise": lambda n, x, t: rise(n, x, t, 16),
    "sobol": lambda n, x, t: sobol(n, x, t, 2, 4),
    "layer_masked_logits": lambda n, x, t: layer_masked_logits(n, x, x[:, 0] > 0.3),
    "linear_interpreter": lambda n, x, t: linear_interpreter(n, x).linear,
    "jacobian_rows": lambda n, x, t: jacobian_rows(n, x[0]),
    "top_singular_images": lambda n, x, t: top_singular_images(n, x[0])[0],
    "deep_lift": lambda n, x, t: deep_lift(n, x, t, x / 10),
    "deep_lift_shap": lambda n, x, t: deep_lift_shap(n, x, t, x[:2] / 2),
    "lrp": lambda n, x, t: lrp(n, x, t),
    "gradient_shap": lambda n, x, t: gradient_shap(n, x, t, x[:2] / 2),
    "kernel_shap": lambda n, x, t: kernel_shap(n, x, t, 2, 20),
    "insertion_deletion": lambda n, x, t: insertion_deletion(n, x, t, x.mean(1)).insertion,
    "masking_contrast": lambda n, x, t: masking_contrast(n, x, x.mean(1), t[:, None]),
    "label_leakage": lambda n, x, t: label_leakage(n, x, t, x.mean(1)).class_free,
    "disconnected_grid_game": lambda n, x, t: (
        disconnected_grid_game(n, four(x), four(t), lambda m, x, t: norm_grad(m, x, t, "deep"), layer="deep").maps
    ),
    "map_infidelity": lambda n, x, t: map_infidelity(n, x, t, x / 10),
    "map_sensitivity": lambda n, x, t: map_sensitivity(n, x, t, input_gradient),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CALLS)
def test_the_same_as_outside_and_no_trace(name, mode):
    net, images, target = case()
    expected = CALLS[name](net, images, target)
    before = trace(net)
    with mode():
        found = CALLS[name](net, images.clone(), target.clone())
    assert trace(net) == before
    torch.testing.assert_close(found, expected, equal_nan=True)
