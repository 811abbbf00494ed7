"""Where the features of mixed examples lie: along the classifier, in channels between classes, how far out."""

import torch
from torch import Tensor

LAMBDAS = 11


class MixGeometry:
    """Sums over mixed pairs, additive over batches and ranks (Fisher, Meng and Papyan 2024).

    `update` takes features of λ·x_i + (1-λ)·x_j at one λ of the grid 0, 0.1 … 1, and both labels.

    `flat` is (2, 11, 5): same and different class, λ, and count, norm, squared norm, cosine to the heavier class's
    classifier row, share of the norm outside the span of both rows and their mean.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.flat = torch.zeros(2 * LAMBDAS * 5, dtype=torch.float64, device=device)

    @property
    def sums(self) -> Tensor:
        return self.flat.view(2, LAMBDAS, 5)

    @torch.no_grad()
    def update(self, features: Tensor, first: Tensor, second: Tensor, place: int, weight: Tensor) -> None:
        """Add pairs.

        Args:
            features: (n, D) of the mixed examples.
            first, second: (n,) labels of the image weighted λ and of the other.
            place: of λ on the grid.
            weight: (K, D) of the classifier.
        """
        features, weight = features.double(), weight.double()
        rows = weight - weight.mean(0)
        heavier = rows[first if 2 * place >= LAMBDAS - 1 else second]
        norm = features.norm(dim=1)
        cosine = torch.nn.functional.cosine_similarity(features, heavier)
        span = torch.stack((weight[first], weight[second], weight.mean(0).expand(len(first), -1)), 2)
        off = off_span(features, span) / norm.clamp_min(1e-30)
        values = torch.stack((torch.ones_like(norm), norm, norm.square(), cosine, off), 1)
        self.sums[:, place].index_add_(0, (first != second).long(), values)

    def scores(self) -> dict[str, Tensor]:
        """Return the figures; NaN where no pair of a kind came.

        - `mix_same_spread`: standard deviation over λ of the mean cosine of same-class mixes to their classifier row;
          near 0 where they sit along it whatever λ is;
        - `mix_off_plane`: share of a different-class mix's length outside the span of the two rows and the mean row;
        - `mix_amplification`: mean length of different-class mixes at λ = ½ over that at λ = 0 and 1.
        """
        mean = self.sums[..., 1:] / self.sums[..., :1]
        same, different = mean
        middle, ends = different[LAMBDAS // 2, 0], (different[0, 0] + different[-1, 0]) / 2
        inner = self.sums[1, 1:-1]
        return {
            "mix_same_spread": same[:, 2].std(correction=0),
            "mix_off_plane": inner[:, 4].sum() / inner[:, 0].sum(),
            "mix_amplification": middle / ends,
        }

    def norm_profile(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of the norm, (2, 11) each: same and different class over λ."""
        mean = self.sums[..., 1] / self.sums[..., 0]
        return mean, (self.sums[..., 2] / self.sums[..., 0] - mean.square()).clamp_min(0).sqrt()


def off_span(features: Tensor, span: Tensor) -> Tensor:
    """Return the length (n,) of features (n, D) outside the span of their columns (n, D, 3), dependent ones too."""
    u, value, _ = torch.linalg.svd(span, full_matrices=False)
    kept = value > 1e-9 * value[:, :1]
    inside = (u * kept[:, None, :]).mT @ features[:, :, None]
    return (features - ((u * kept[:, None, :]) @ inside)[..., 0]).norm(dim=1)
