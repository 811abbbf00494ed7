"""The command explain: load the weights, study the model, say where the findings are."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from ..errors import RectifyError
from .explain import explain
from .starting_weights import load_starting_weights

SHOWN = ("insertion", "deletion", "gini", "contrast_to_runner_up", "grid_pointing_game")


def explain_command(cli: Any, ckpt_path: str | None, **options: Any) -> None:
    """Explain the model of a command line into its run folder.

    Args:
        cli: the command line, with trainer, model and data built.
        ckpt_path: weights to load; those of `--init_from` are loaded already.
        options: of `explain`.

    Raises:
        RectifyError: several processes, a checkpoint in shards, or what `explain` refuses.
    """
    if cli.trainer.world_size > 1:
        raise RectifyError(f"explain runs in one process; trainer.devices asks for {cli.trainer.world_size}, set 1.")
    if ckpt_path:
        if Path(ckpt_path).is_dir():
            raise RectifyError(f"explain: {ckpt_path} is a folder of shards; convert it to one file first.")
        averaged = load_starting_weights(cli.model.backbone, ckpt_path)
        rank_zero_info(f"Weights of {ckpt_path}" + (" (its moving average)" if averaged else ""))
    cli.datamodule.trainer = cli.trainer
    device = cli.trainer.strategy.root_device
    study = explain(cli.model.backbone, cli.datamodule, cli.run_folder, device=device, **options)
    shown = [name for name in SHOWN if any(name in row for row in study.methods.values())]
    rank_zero_info(f"{'':24}" + "".join(f"{name:>24}" for name in shown))
    for method, row in study.methods.items():
        rank_zero_info(f"{method:24}" + "".join(f"{row[n]:24.3f}" if n in row else " " * 24 for n in shown))
    rank_zero_info(f"{len(study.files)} files in {cli.run_folder}")
