"""Fit post-hoc maps on the validation split, choose one, and save a checkpoint whose probabilities are calibrated."""

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, __version__
from torch import Tensor, nn

from ..calibration.cached_logits import check_disjoint
from ..calibration.calibrated_backbone import CalibratedBackbone, folded
from ..calibration.calibration_map import CalibrationMap
from ..calibration.selection import (
    MAPS,
    Choice,
    Score,
    calibration_scores,
    choose_map,
    chosen_names,
    compare_maps,
)
from ..calibration.whole_set import score_whole
from ..callbacks.reliability_figure import draw_reliability
from ..collectives import from_rank_zero, gather_rows
from ..errors import RectifyError
from ..files import atomic_path
from ..frozen import frozen_eval
from ..metrics import CalibrationSums, Deduplicator

CHECKPOINT, REPORT, CONFIG = "calibrated.ckpt", "calibration.json", "calibrated.yaml"


def calibrate(
    model: LightningModule,
    datamodule: Any,
    folder: Path | str,
    maps: list[str] | None = None,
    score: Score = "nll",
    folds: int = 3,
    make: dict[str, Callable[[int], CalibrationMap]] | None = None,
    backbone_config: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    notes: dict[str, Any] | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """Calibrate a trained classifier; return what `calibration.json` holds, the same on every rank (all call this).

    Maps are fitted on the logits of the validation split and one is chosen there, by a proper score on held-out folds
    (`choose_map`); rank 0 fits, on the samples of all ranks. The test split is only reported on. `after` is measured in
    a second pass over it, by the network with the weights that the checkpoint holds and in their precision. Written
    into `folder` by rank 0, where an earlier calibration is replaced whole:

    - `calibrated.ckpt`: the module's weights with the map. A linear map is multiplied into the last layer, so the file
      fits the same config as before; any other needs the backbone to be a `CalibratedBackbone`;
    - `calibrated.yaml`, in that case: the part of the config that says so, to be put after the run's own config;
    - `calibration.json`: scores before and after on test, of every map, with the held-out scores of the choice;
    - `figures/calibration/before.png` and `after.png`: reliability diagrams of the test split.

    Args:
        model: with `backbone`, whole and trained.
        datamodule: set up; gives `val_dataloader` and `test_dataloader`.
        folder: of the run.
        maps, score, folds, make: of `choose_map`.
        backbone_config: class_path and init_args of the backbone, for `calibrated.yaml`.
        device: where the network runs.
        notes: what the checkpoint says beside its weights (`kept_notes`); `calibration` is added.
        precision: opens what the network runs in, such as the autocast of the training.

    Raises:
        RectifyError: the module has no such backbone, a split is empty, samples of test are in the validation split,
            or what `choose_map` refuses.
    """
    known = make or MAPS
    chosen_names(maps, score, folds, known)
    backbone: Any = own_backbone(model)
    backbone.to(device)
    val, test = (split_outputs(backbone, datamodule, split, device, precision) for split in ("val", "test"))
    for split, found in (("val", val), ("test", test)):
        if not len(found["label"]):
            raise RectifyError(f"calibrate: the {split} split is empty; calibration is fitted on val, tested on test.")
    check_disjoint(val["index"], test["index"])

    def fit() -> tuple[Choice, dict[str, dict[str, Any]]]:
        choice = choose_map(val["logits"], val["label"], maps, score, folds, make)
        return choice, compare_maps(choice.fitted, test["logits"], test["label"])

    choice, rows = from_rank_zero(fit)
    own = None if choice.calibration is None else choice.calibration.to(device)
    plain = None if own is None else folded(backbone, own, val["features"][:64].to(device))
    calibrated, after = None, test
    if own is not None:
        calibrated = plain if plain is not None else CalibratedBackbone(backbone, own)
        again = backbone if plain is not None else CalibratedBackbone(backbone, known[choice.name](own.classes))
        deployed = copy.deepcopy(again).to(device)
        deployed.load_state_dict(calibrated.state_dict())
        after = split_outputs(deployed, datamodule, "test", device, precision)
    folder = Path(folder)
    result: dict[str, Any] = {
        "chosen": choice.name,
        "chosen_by": f"{score} on {folds} held-out folds of val",
        "calibration_samples": len(val["label"]),
        "calibration_errors": int(val["logits"].argmax(1).ne(val["label"]).sum()),
        "test_samples": len(test["label"]),
        "held_out": choice.held_out,
        "before": rows["none"],
        "after": calibration_scores(after["logits"], after["label"]),
        "predictions_changed": int(after["logits"].argmax(1).ne(test["logits"].argmax(1)).sum()),
        "test": rows,
        "checkpoint": None if own is None else str(folder / CHECKPOINT),
        "folded": plain is not None,
    }

    def write() -> None:
        for name in (CHECKPOINT, CONFIG):
            (folder / name).unlink(missing_ok=True)
        _draw(folder / "before.png", test["logits"], test["label"], "test, before calibration")
        if calibrated is not None:
            _draw(folder / "after.png", after["logits"], after["label"], f"test, after {choice.name}")
            _save(model, calibrated, {**(notes or {}), "calibration": choice.name}, folder)
        if own is not None and plain is None and backbone_config is not None:
            _write_config(folder, own, backbone_config)
        with atomic_path(folder / REPORT) as path:
            path.write_text(json.dumps(result, indent=1))

    from_rank_zero(write)
    return result


def own_backbone(model: nn.Module) -> nn.Module:
    """Return the backbone of a module, whose head a map can follow; RectifyError if there is none."""
    backbone = getattr(model, "backbone", None)
    parts = [callable(getattr(backbone, part, None)) for part in ("features", "head")]
    if isinstance(backbone, nn.Module) and all(parts):
        return backbone
    raise RectifyError(
        f"calibrate: {type(model).__name__} has no backbone with features(image) and head(features); "
        "fit a map on its logits with lightning_rectify.calibration."
    )


def split_outputs(
    backbone: nn.Module,
    datamodule: Any,
    split: str,
    device: torch.device | str,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Tensor]:
    """Return features, logits, label and index of a split on the CPU, each sample once, on every rank."""
    loader = getattr(datamodule, f"{split}_dataloader")()
    if isinstance(loader, list):  # a set with calibration classes gives two
        loader = loader[0] if loader else []
    seen, pieces = Deduplicator(), []
    with frozen_eval(backbone), precision():
        for batch in loader:
            batch = datamodule.on_before_batch_transfer(batch, 0)
            moved = {name: value.to(device) for name, value in batch.items()}
            batch = datamodule.on_after_batch_transfer(moved, 0)
            features = backbone.features(batch["image"])  # type: ignore[operator]
            logits = backbone.head(features).float()  # type: ignore[operator]
            keep = seen.keep(batch["index"])
            pieces.append((features[keep].float(), logits[keep], batch["label"][keep], batch["index"][keep]))
    names = ("features", "logits", "label", "index")
    if not pieces:
        return {name: torch.zeros(0, dtype=torch.int64) for name in names}
    columns = [torch.cat(gather_rows(torch.cat(column))).cpu() for column in zip(*pieces, strict=True)]
    order = columns[3].argsort()
    return {name: column[order] for name, column in zip(names, columns, strict=True)}


def _write_config(folder: Path, calibration: CalibrationMap, backbone_config: dict[str, Any]) -> None:
    inner = {"class_path": type(calibration).__name__, "init_args": {"classes": calibration.classes}}
    options = {"backbone": backbone_config, "calibration": inner}
    with atomic_path(folder / CONFIG) as path:
        outer = {"class_path": "CalibratedBackbone", "init_args": options}
        path.write_text(yaml.safe_dump({"model": {"backbone": outer}}, sort_keys=False))


def _save(model: Any, backbone: nn.Module, notes: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint of the module with another backbone, in the form Lightning reads."""
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
    state |= {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": __version__,
        **notes,
        "state_dict": {key: value.cpu() for key, value in state.items()},
    }
    with atomic_path(folder / CHECKPOINT) as path:
        torch.save(content, path)


def _draw(target: Path, logits: Tensor, label: Tensor, title: str) -> None:
    result = score_whole(CalibrationSums(logits.shape[1]), logits, label)
    with atomic_path(target.parent / "figures" / "calibration" / target.name) as path:
        draw_reliability(result.reliability, title, result.scores).savefig(path, format="png", dpi=120)
