"""The command calibrate: load the weights, calibrate the model, say what became of it."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from ..errors import RectifyError
from .calibrate import CONFIG, calibrate
from .starting_weights import load_starting_weights

SHOWN = ("accuracy", "nll", "brier", "ece_top_label_l1", "ece_top_label_smooth", "ece_class_wise_l1", "signed_gap")


def calibrate_command(cli: Any, ckpt_path: str | None, **options: Any) -> None:
    """Calibrate the model of a command line into its run folder.

    Args:
        cli: the command line, with trainer, model and data built.
        ckpt_path: weights to load; those of `--init_from` are loaded already.
        options: `maps`, `score` and `folds` of `calibrate`.

    Raises:
        RectifyError: several processes, a checkpoint in shards, streamed data, or what `calibrate` refuses.
    """
    if cli.trainer.world_size > 1:
        raise RectifyError(f"calibrate runs in one process; trainer.devices asks for {cli.trainer.world_size}, set 1.")
    if ckpt_path:
        if Path(ckpt_path).is_dir():
            raise RectifyError(f"calibrate: {ckpt_path} is a folder of shards; convert it to one file first.")
        load_starting_weights(cli.model.backbone, ckpt_path)
    cli.datamodule.trainer = cli.trainer
    cli.datamodule.prepare_data()
    cli.datamodule.setup("test")
    config: Any = getattr(cli._get(cli.config, "model"), "backbone", None)
    device = cli.trainer.strategy.root_device
    plain = config.as_dict() if hasattr(config, "as_dict") else None
    result = calibrate(cli.model, cli.datamodule, cli.run_folder, backbone_config=plain, device=device, **options)
    rank_zero_info(f"Chosen: {result['chosen']}, by {result['chosen_by']}")
    rank_zero_info(f"{'test':24}{'before':>12}{'after':>12}")
    for name in SHOWN:
        rank_zero_info(f"{name:24}{result['before'][name]:12.4f}{result['after'][name]:12.4f}")
    worse = [name for name, row in result["test"].items() if row.get("nll_lower_than_before") is False]
    if worse:
        rank_zero_info(f"These maps did not lower the test NLL: {', '.join(worse)}")
    if result["checkpoint"]:
        more = "" if result["folded"] else f"; use it with -c {cli.run_folder / CONFIG} after the run's config"
        rank_zero_info(f"Calibrated checkpoint: {result['checkpoint']}{more}")
    else:
        rank_zero_info("No map was better than the logits as they are; no checkpoint is written.")
