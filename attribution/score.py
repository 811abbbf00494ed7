"""What is explained: the logit of a class, with the checks every method needs."""

from torch import Tensor, nn

from ..errors import RectifyError


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's logits (B, K).

    Args:
        model: a wrapper with an attribute `stands_for` is called by that module's name in errors.
        images: (B, C, H, W) float.

    Raises:
        RectifyError: the images are not float (B, C, H, W), have channels the model does not take, or the model's
            output is not logits.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise RectifyError(f"Saliency takes float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}.")
    if not len(images):
        raise RectifyError("Saliency got a batch of no images; give at least one.")
    name = type(getattr(model, "stands_for", model)).__name__
    try:
        logits = model(images)
    except RuntimeError as error:
        if "channels" not in str(error):
            raise
        raise RectifyError(
            f"{name} does not take images with {images.shape[1]} channels; "
            "give images with the channels of its first layer."
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RectifyError(f"{name}(image) must return logits ({len(images)}, K) to be explained, it returned {found}.")
    return logits


def check_target(target: Tensor, images: Tensor, classes: int) -> None:
    """Refuse targets that are not integers (B,) among the model's classes."""
    if target.shape != images.shape[:1] or target.is_floating_point():
        raise RectifyError(
            f"target must be integers of shape ({len(images)},), got {target.dtype} {tuple(target.shape)}."
        )
    if len(target) and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise RectifyError(
            f"target holds {target.min()} … {target.max()}, but the model has classes 0 … {classes - 1}."
        )


def chosen_logit(logits: Tensor, target: Tensor) -> Tensor:
    """Return Σ_b logits[b, target_b]; the gradient of this sum is each sample's own, since images do not interact."""
    # the graph keeps the index, which must not be a tensor made in inference_mode: a clone is an ordinary one
    return logits.gather(1, target.long().clone()[:, None]).sum()


def target_logit(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return Σ_b logits[b, target_b], a scalar: samples are independent in eval mode, so its gradient is per sample.

    Raises:
        RectifyError: the images are not float (B, C, H, W), the model's output is not logits, or a target is outside.
    """
    logits = logits_of(model, images)
    check_target(target, images, logits.shape[1])
    return chosen_logit(logits, target)
