"""Train, test and resume from the command line.

python train.py fit --config configs/quickstart.yaml
python train.py fit -c configs/data/cifar10.yaml -c configs/objective/fmix.yaml -c configs/trainer/ddp.yaml
python train.py test -c runs/quickstart/config.yaml --ckpt_path runs/quickstart/checkpoints/best.ckpt
"""

import logging
import os
import sys
import warnings

os.environ.setdefault("WDS_SECURE", "1")  # read once, when webdataset is imported: no pickles, no `pipe:` shells


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand; a user's mistake ends in one sentence and exit code 2 (RECTIFY_DEBUG=1 shows the traceback)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from lightning_rectify.callbacks._warning_signal import watch_start_up

    watch_start_up(arguments)  # before the imports that take seconds

    from omegaconf.errors import OmegaConfBaseException
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from lightning_rectify.callbacks import explain_failure
    from lightning_rectify.errors import RectifyError

    quieten()
    try:
        run(arguments)
    except (RectifyError, OmegaConfBaseException, MisconfigurationException) as error:
        if os.environ.get("RECTIFY_DEBUG"):
            raise
        where = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"error{where}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        explained = explain_failure(error)
        if explained is None or os.environ.get("RECTIFY_DEBUG"):
            raise
        print(f"error: {explained}", file=sys.stderr)
        sys.exit(1)


def quieten() -> None:
    """Drop what Lightning prints at each start and no user can act on."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "litlogger" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # a dependency's call
    warnings.filterwarnings("ignore", message=".*The `srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what our modules log is reduced already


def run(arguments: list[str]) -> None:
    """Resolve config names and the import allow-list, then hand over to the CLI."""
    from lightning_rectify.commands.config_files import resolve_configs, take_allowed
    from lightning_rectify.commands.parser import restrict_imports

    arguments, allowed = take_allowed(arguments)
    if allowed:
        sys.path.insert(0, os.getcwd())  # a console script does not see the user's own package otherwise
    arguments = resolve_configs(arguments)
    restrict_imports(allowed)

    from lightning_rectify.commands.cli import RectifyCLI
    from lightning_rectify.commands.module_choice import choose_module

    RectifyCLI(arguments, choose_module(arguments, allowed))


if __name__ == "__main__":
    main()
