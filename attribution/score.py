"""What is explained: the logit of a class, with the checks every method needs."""

from torch import Tensor, nn

from ..errors import RectifyError


def target_logit(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Return Σ_b logits[b, target_b], a scalar: samples are independent in eval mode, so its gradient is per sample.

    Raises:
        RectifyError: the images are not float (B, C, H, W), the model's output is not logits, or a target is outside.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise RectifyError(f"Saliency takes float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}.")
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RectifyError(
            f"{type(model).__name__}(image) must return logits ({len(images)}, K) to be explained, it returned {found}."
        )
    classes = logits.shape[1]
    if target.shape != images.shape[:1] or target.is_floating_point():
        raise RectifyError(
            f"target must be integers of shape ({len(images)},), got {target.dtype} {tuple(target.shape)}."
        )
    if len(target) and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise RectifyError(
            f"target holds {target.min()} … {target.max()}, but the model has classes 0 … {classes - 1}."
        )
    # the graph keeps the index, which must not be a tensor made in inference_mode: a clone is an ordinary one
    return logits.gather(1, target.long().clone()[:, None]).sum()
