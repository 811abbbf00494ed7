"""Proxy-Anchor: every class's proxy pulls its own embeddings and pushes the others, the hardest most."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...collectives import gather_with_gradient
from ...errors import RectifyError
from .embedding_loss import check_rows, check_unit, full_precision
from .proxies import ProxyLoss


class ProxyAnchor(ProxyLoss):
    """1/|P⁺| Σ_{p∈P⁺} log(1 + Σ_{x∈p} e^{-α(s-δ)}) + 1/|P| Σ_p log(1 + Σ_{x∉p} e^{α(s+δ)}), s the cosine to the proxy.

    P⁺ are the classes of the batch. Kim et al. 2020, arXiv 2003.13911, eq. 4. The sums inside the logarithms run over
    the rows of all ranks: each rank computes those of its own rows, and 2·classes numbers are exchanged.

    Args:
        margin: δ.
        scale: α.
    """

    name = "proxy_anchor"

    def __init__(
        self,
        classes: int,
        dimension: int | None = None,
        margin: float = 0.1,
        scale: float = 32.0,
        learning_rate_scale: float = 1.0,
    ):
        super().__init__(classes, dimension, learning_rate_scale)
        if not scale > 0:
            raise RectifyError(f"ProxyAnchor: scale is {scale}; it must be above 0.")
        self.margin, self.scale = margin, scale
        self._checked = False

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_rows("ProxyAnchor", embeddings, labels)
        if not self._checked:
            check_unit("ProxyAnchor", embeddings)
            check_classes("ProxyAnchor", labels, self.classes)
            self._checked = True
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = full_precision(embeddings)
            cosine = rows @ F.normalize(self.proxies.to(rows.dtype), dim=1).T
            own = labels[:, None] == torch.arange(self.classes, device=labels.device)
            # stands for log 0: exp() of it is 0, and unlike -inf it leaves no NaN in the gradient of an empty sum
            nothing = torch.finfo(cosine.dtype).min / 4
            pull = (-self.scale * (cosine - self.margin)).masked_fill(~own, nothing)
            push = (self.scale * (cosine + self.margin)).masked_fill(own, nothing)
            empty = cosine.new_full((1, self.classes), nothing)
            partial = torch.stack([torch.cat((part, empty)).logsumexp(0) for part in (pull, push)])
            gathered = gather_with_gradient(partial[None])  # (W, 2, classes)
            total = torch.logaddexp(gathered.logsumexp(0), cosine.new_zeros(()))  # softplus() gives up at 20
            present = gathered[:, 0].amax(0) > nothing / 2
            self.terms = {"classes_in_batch": present.sum()}
            pulled = torch.where(present, total[0], 0.0).sum() / present.sum().clamp_min(1)
            return pulled + total[1].mean()


def check_classes(owner: str, labels: Tensor, classes: int) -> None:
    """Raise RectifyError if a label lies outside [0, classes) (one host sync)."""
    if len(labels) and not 0 <= (worst := int(labels[(2 * labels - (classes - 1)).abs().argmax()])) < classes:
        raise RectifyError(f"{owner}: a label is {worst}, but classes is {classes}; labels must lie in [0, {classes}).")
