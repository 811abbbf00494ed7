"""What the unlearning objectives share: a loss for samples to forget, one for those to retain, and both means."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...collectives import sum_over_ranks, world_size
from ..objective import Context, Objective, Step
from .parts import Portion, portions


class UnlearningObjective(Objective):
    """Mean loss of the samples to forget and mean loss of those to retain, weighted and summed.

    A subclass overrides `forget_losses`, `retain_losses` (per sample) and `weights`. The means are those of all ranks'
    samples, so that one process and two have the same gradient however unevenly a mixed batch falls. A step whose
    weights are all 0 still passes the network once and has a gradient of exactly 0, which data-parallel training needs;
    an optimizer with momentum or weight decay moves the weights in it. Logs `forget_loss` and `retain_loss`, before
    weighting; the accuracy of the step counts true labels.
    """

    needs_retain = True
    schedules: tuple[str, ...] = ("forget_then_retain", "paired", "mixed")
    """Schedules of the data that it takes; the first is its default."""
    uses: tuple[str, ...] = ("forget", "retain")
    """The parts it reads; passes over the others only cost time."""
    pooled: bool = False
    """A mixed batch has one mean over all its samples, instead of one mean for each kind."""

    def forget_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        """Return (B,) losses, of which those of samples to forget are read."""
        raise NotImplementedError

    def retain_losses(self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context) -> Tensor:
        """Return (B,) losses, of which those of samples to retain are read; cross-entropy by default."""
        return F.cross_entropy(logits, portion.batch["label"], reduction="none")

    def weights(self, context: Context) -> tuple[float, float]:
        """Return the weights of the two means in this step; a mean of weight 0 is not computed."""
        return float("forget" in self.uses), float("retain" in self.uses)

    def images(self, backbone: nn.Module, portion: Portion, context: Context) -> Tensor:
        """Return the images that pass the network; those of the batch by default."""
        return portion.batch["image"]

    def network(self, backbone: nn.Module, image: Tensor) -> Tensor:
        """Return the logits that the losses read, (B, K)."""
        return backbone(image)

    def forward(self, backbone: nn.Module, batch: dict[str, Any], context: Context) -> Step:
        weights = self.weights(context)
        found = portions(batch)
        read = [p for p in found if (p.forgets and weights[0]) or ((p.mixed or not p.forgets) and weights[1])]
        losses, terms, logits, labels = [], {}, [], []
        for portion in read or found[:1]:
            passed = self.network(backbone, self.images(backbone, portion, context))
            loss, means = self._weighted(backbone, passed, portion, context, weights)
            losses.append(loss)
            terms.update(means)
            logits.append(passed)
            labels.append(portion.batch["label"])
        return Step(torch.stack(losses).sum(), torch.cat(logits), torch.cat(labels), terms)

    def _weighted(
        self, backbone: nn.Module, logits: Tensor, portion: Portion, context: Context, weights: tuple[float, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.stack((portion.forget, ~portion.forget))
        counts = torch.cat((chosen.sum(1), chosen.new_full((1,), len(logits), dtype=torch.int64)))
        # W / Σ_ranks count, as collectives.global_mean_weight, of all three at once and in the precision of the loss
        scale = world_size() / sum_over_ranks(counts).clamp_min(1).to(torch.promote_types(logits.dtype, torch.float32))
        loss, terms = logits.sum() * 0, {}
        for kind, (name, per_sample) in enumerate((("forget", self.forget_losses), ("retain", self.retain_losses))):
            present = portion.mixed or portion.forgets == (kind == 0)
            if not present or not weights[kind]:
                continue
            # `where` and no product: a loss of infinity on the other kind must not become NaN
            value = per_sample(backbone, logits, portion, context)
            total = torch.where(chosen[kind], value, torch.zeros_like(value)).sum()
            loss = loss + weights[kind] * total * scale[2 if self.pooled else kind]
            terms[f"{name}_loss"] = (total * scale[kind]).detach()
        return loss, terms
