"""The command explain: load the weights, study the model, say where the findings are."""

import math
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from ..errors import RectifyError
from .explain import explain
from .starting_weights import load_starting_weights, network_of, one_file

SHOWN = {  # headings of the table that is printed
    "images": "images",
    "insertion": "insertion",
    "deletion": "deletion",
    "contrast_to_runner_up": "contrast",
    "grid_pointing_game": "in cell",
    "leakage": "leakage",
    "gini": "Gini",
}


def explain_command(cli: Any, ckpt_path: str | None, **options: Any) -> None:
    """Explain the model of a command line into its run folder: the backbone of our modules, others as a whole.

    Args:
        cli: the command line, with trainer, model and data built.
        ckpt_path: weights to load; those of `--init_from` are loaded already.
        options: of `explain`.

    Raises:
        RectifyError: several processes, a checkpoint in shards, or what `explain` refuses.
    """
    if cli.trainer.world_size > 1:
        raise RectifyError(f"explain runs in one process; trainer.devices asks for {cli.trainer.world_size}, set 1.")
    network, whole = network_of(cli.model)
    if ckpt_path:
        if Path(ckpt_path).is_dir():
            raise RectifyError(f"explain: --ckpt_path {ckpt_path} is a folder of shards; {one_file(Path(ckpt_path))}.")
        averaged = load_starting_weights(network, ckpt_path, whole=whole)
        rank_zero_info(f"Weights of {ckpt_path}" + (" (its moving average)" if averaged else ""))
    cli.datamodule.trainer = cli.trainer
    device = cli.trainer.strategy.root_device
    study = explain(network, cli.datamodule, cli.run_folder, device=device, **options)
    shown = [name for name in SHOWN if any(name in row for row in study.methods.values())]
    rank_zero_info(f"{'':26}" + "".join(f"{SHOWN[name]:>11}" for name in shown))
    for method, row in study.methods.items():
        rank_zero_info(f"{method:26}" + "".join(_cell(row.get(name)) for name in shown))
    cell = " and the share in the cell of a grid (chance 0.25)" if "grid_pointing_game" in shown else ""
    rank_zero_info(f"Higher is better for insertion, contrast to the runner-up{cell}, lower for deletion and leakage.")
    if any(math.isnan(row["insertion"]) or math.isnan(row["deletion"]) for row in study.methods.values()):
        rank_zero_info("nan: the label's probability is no higher on the images than on blurred or empty ones.")
    rank_zero_info(f"{len(study.files)} files in {cli.run_folder}")


def _cell(value: float | None) -> str:
    if value is None:
        return " " * 11
    return f"{value:11d}" if isinstance(value, int) else f"{value:11.3f}"
