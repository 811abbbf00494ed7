"""The numbers of a panel's maps that are logged."""

from pytorch_lightning import LightningModule
from torch import Tensor

from ..attribution.map_numbers import map_drift, map_statistics
from .panel import Panel
from .panel_study import panel_curves, panel_sensitivity, scaled_maps
from .saliency_keys import sensitivity_key

STEPS = 8


def saliency_scores(
    pl_module: LightningModule,
    panel: Panel,
    maps: dict[str, Tensor],
    before: dict[str, Tensor],
    layers: list[str],
    thorough: bool,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what is logged, by key below `val/saliency/`, and the drift (n,) of each map (a collective).

    Args:
        maps: (n, H, W) by row key.
        before: the maps of the last drawing, as `scaled_maps` gives them.
        layers: where the sensitivity to the class is measured.
        thorough: with insertion and deletion.
    """
    scores: dict[str, float] = {}
    drifts: dict[str, Tensor] = {}
    for key, values in maps.items():
        scores |= {f"{key}/{name}": float(value.mean()) for name, value in map_statistics(values).items()}
        if key in before and before[key].shape == values.shape:
            drifts[key] = map_drift(scaled_maps(values), before[key])
            scores[f"{key}/drift"] = float(drifts[key].mean())
    if layers:
        found = panel_sensitivity(pl_module, panel, layers)
        scores |= {sensitivity_key(layer): value for layer, value in found.items()}
    if thorough:
        for key, curves in panel_curves(pl_module, panel, maps, STEPS).items():
            scores[f"{key}/insertion"] = curves.normalised_insertion
            scores[f"{key}/deletion"] = curves.normalised_deletion
    return scores, drifts
