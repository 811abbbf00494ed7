"""The command line: LightningCLI with composable configs, run folders, starting weights and short errors."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info

from ..callbacks import ExplainFailure, FiniteLoss, Preemption, Progress, config_fingerprint, find_resume, is_requeue
from ..callbacks._warning_signal import hand_back
from ..datamodules import ShardDataModule
from ..errors import RectifyError
from ..strategies import AtomicCheckpoint
from .calibrate_command import calibrate_command
from .callback_list import has_progress_bar, last_of_a_kind
from .checkpoint_notes import check_uncalibrated
from .explain_command import explain_command
from .monitors import KnownMonitors
from .parser import ShortErrorParser
from .predictions import write_predictions
from .provenance import Provenance, mark_finished
from .results_table import print_results
from .retrain import Retraining
from .run_folder import LATEST, RunFolder, choose_run_folder
from .starting_weights import backbone_weights, check_fit, load_starting_weights, network_of, read_checkpoint
from .trainer import RectifyTrainer
from .tuning import Tuning
from .unlearn import UnlearningRun

OWN_SUBCOMMANDS = ("unlearn", "explain", "calibrate")
SUBCOMMANDS = ("fit", "validate", "test", "predict", *OWN_SUBCOMMANDS)


class RectifyCLI(LightningCLI):
    """The subcommands for a module (`choose_module`) on a ShardDataModule."""

    def __init__(self, args: list[str], module: type[LightningModule]):
        self.run: RunFolder | None = None
        self.module = module
        try:
            self._run(args)
        except BaseException:
            if self.run:
                self.run.release(failed=not self._began())
            raise
        if self.run:
            self.run.release(failed=bool(self.trainer.fast_dev_run))  # type: ignore[attr-defined]

    def _run(self, args: list[str]) -> None:
        mode = {"parser_mode": "omegaconf+"}  # the only mode in which several files and overrides compose
        super().__init__(
            self.module,
            ShardDataModule,
            trainer_class=RectifyTrainer,
            args=args,
            parser_class=ShortErrorParser,
            parser_kwargs={**mode, **{command: dict(mode) for command in SUBCOMMANDS}},
            seed_everything_default=0,
            save_config_callback=Provenance,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "callbacks": [FiniteLoss(), ExplainFailure(), KnownMonitors()],
                "use_distributed_sampler": False,
            },
            auto_configure_optimizers=False,  # the optimizer is built after the strategy has sharded the parameters
            load_from_checkpoint_support=False,  # hyper-parameters in a checkpoint would beat the command line
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), **{name: {"model", "datamodule"} for name in OWN_SUBCOMMANDS}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # the parent warns that sys.argv is not empty; it stays as it was typed because DDP relaunches from it
        ShortErrorParser.arguments = args
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the command line alone: the parent would put a checkpoint's hyper-parameters over it."""

    def _began(self) -> bool:
        """Whether a training batch was reached, so that the run folder holds something worth keeping."""
        callbacks = getattr(getattr(self, "trainer", None), "callbacks", [])
        return any(isinstance(callback, Provenance) and callback.began for callback in callbacks)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--module", type=str, default=self.module.__name__, help="What `model` is, e.g. Retriever.")
        parser.add_argument("--name", type=str | None, help="Name of the run; its folder is <runs_dir>/<name>.")
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Folder of all runs.")
        parser.add_argument(
            "--threads", type=int | None, help="CPU threads of a process; by default its share of the cores."
        )
        parser.add_argument("--init_from", type=str | None, help="Weights to start from; to resume use --ckpt_path.")
        parser.add_argument("--replace_head", type=bool, default=False, help="With --init_from: keep a fresh head.")
        parser.add_argument("--final_test", type=bool, default=True, help="After fit, test the best checkpoint.")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        monitor, mode = getattr(self.module, "monitor", ("val/accuracy", "max"))
        parser.set_defaults(
            {
                "checkpoint.monitor": monitor,
                "checkpoint.mode": mode,
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise RectifyError(f"seed_everything is {seed}; give a number from 0 to 2^32 - 1.")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        name = self._get(self.config, "name") or self._default_name()
        resume = self._get(self.config, "ckpt_path")
        if self.subcommand == "unlearn" and not self._get(self.config, "init_from"):
            raise RectifyError("unlearn: there is no model that could forget; give its checkpoint as --init_from.")
        if self.subcommand != "fit" and not resume and not self._get(self.config, "init_from"):
            raise RectifyError(f"{self.subcommand}: the weights are untrained; give --ckpt_path or --init_from.")
        self.run = choose_run_folder(Path(self._get(self.config, "runs_dir")), name, resume)
        if resume in LATEST:
            self.config[self.subcommand]["ckpt_path"] = str(self.run.checkpoint(resume))

    @property
    def run_folder(self) -> Path:
        assert self.run is not None
        return self.run.path

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (RectifyError, SystemExit, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a constructor raised, its message is what the user needs
            raise _user_error(error) from error
        self._load_weights()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("default_root_dir") is None:
            kwargs["default_root_dir"] = self.run_folder
        if config.get("logger") in (None, True):
            loggers = [CSVLogger(self.run_folder, name="csv"), TensorBoardLogger(self.run_folder, "tensorboard")]
            kwargs["logger"] = [] if config.get("fast_dev_run") else loggers
        kwargs["callbacks"] = last_of_a_kind(config.get("callbacks"))
        if config.get("enable_progress_bar") is not False and not has_progress_bar(kwargs["callbacks"]):
            kwargs["callbacks"].append(Progress())
        trainer = super().instantiate_trainer(**kwargs)
        if isinstance(trainer.accelerator, CPUAccelerator):
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            if trainer.num_devices > 4 * cores:
                raise RectifyError(
                    f"trainer.devices is {trainer.num_devices} for {cores} CPU cores; give at most one each."
                )
            if threads := self._get(self.config, "threads"):
                torch.set_num_threads(threads)
            elif trainer.num_devices > 1 and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, cores // trainer.num_devices))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpoint()
        if not config.get("fast_dev_run") and trainer.checkpoint_callbacks:
            # Lightning's own `save_last` keeps the state at the last best epoch when a value is monitored
            last = ModelCheckpoint(filename="last", monitor=None, enable_version_counter=False)
            trainer.callbacks.append(last)  # type: ignore[attr-defined]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.run_folder / "checkpoints")
        return trainer

    def before_unlearn(self) -> None:
        self.before_fit()

    def unlearn(self, **kwargs: Any) -> None:
        """Forget, save the unlearned model and report on it (`RectifyTrainer.unlearn` describes the options)."""
        start = str(self._get(self.config, "init_from"))
        retraining = None
        if kwargs["retrain"]:
            retraining = Retraining(start, kwargs["retrain_config"], kwargs["retrain_seeds"])
        tuning, rates, densities = None, kwargs["tune_lr"], kwargs["tune_density"]
        if rates or densities:
            settings = self._get(self.config_init, "trainer")
            tuning = Tuning(rates, densities, settings, self.trainer.callbacks)  # type: ignore[attr-defined]
        UnlearningRun(self, start, retraining, tuning)(kwargs["ckpt_path"], kwargs["weights_only"])

    def explain(self, **kwargs: Any) -> None:
        """Study the model by its saliency maps (`RectifyTrainer.explain` describes the options)."""
        explain_command(self, **_options(kwargs))

    def calibrate(self, **kwargs: Any) -> None:
        """Fit post-hoc maps and save a calibrated checkpoint (`RectifyTrainer.calibrate` describes the options)."""
        calibrate_command(self, init_from=self._get(self.config, "init_from"), **_options(kwargs))

    def before_fit(self) -> None:
        rank_zero_info(f"Run folder: {self.run_folder}")
        self._continue_interrupted()

    def _continue_interrupted(self) -> None:
        """Let an interrupted run go on from its own checkpoint; a `--ckpt_path` holds for the first start of a job."""
        named = self._get(self.config, "ckpt_path") is not None and not is_requeue()
        controllers = [c for c in self.trainer.callbacks if isinstance(c, Preemption)]  # type: ignore[attr-defined]
        hand_back(kept=[controller.signal for controller in controllers])
        for controller in controllers:
            config = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
            controller.fingerprint = config_fingerprint(config)
            if not named and (resume := find_resume(self.run_folder, controller.fingerprint)):
                self.config_init[self.subcommand]["ckpt_path"] = str(resume)

    def after_fit(self) -> None:
        if self.trainer.fast_dev_run or self.trainer.interrupted:  # type: ignore[attr-defined]
            return
        if self._get(self.config, "final_test") and len(self.datamodule.test_dataloader()):
            best = self.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
            self.test(ckpt_path=best or None, model=self.model, datamodule=self.datamodule)
        if self.trainer.is_global_zero:
            mark_finished(self.run_folder)

    def test(self, **kwargs: Any) -> None:
        """Test, and print one table instead of one line per value."""
        self._evaluate(self.trainer.test, kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Validate, and print one table instead of one line per value."""
        self._evaluate(self.trainer.validate, kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Write the probabilities of the test split as `predictions.csv` into the run folder."""
        kwargs.pop("return_predictions", None)
        kwargs["weights_only"] = True
        batches: Any = self.trainer.predict(**kwargs, return_predictions=True)
        if not batches or "probability" not in batches[0]:
            raise RectifyError(f"predict: {type(self.model).__name__} gives no probabilities; use test.")
        keys = getattr(getattr(self.datamodule, "index", None), "key", None)
        path = self.run_folder / "predictions.csv"
        count = write_predictions(path, batches, self.datamodule.class_names, keys, self.trainer.is_global_zero)
        rank_zero_info(f"{count} predictions in {path}")

    def _evaluate(self, run: Any, kwargs: dict[str, Any]) -> None:
        kwargs.setdefault("weights_only", True)
        kwargs["verbose"] = False
        results = run(**kwargs)
        if self.trainer.is_global_zero and results:
            print_results(results[0], kwargs.get("ckpt_path"))

    def _default_name(self) -> str:
        model = self._get(self.config, "model") or {}  # a module may take no arguments
        objective = model.get("method") or model.get("objective")
        ours = "EmpiricalRisk" if "objective" in model else self._get(self.config, "module")
        title = (objective.class_path if objective else ours).rpartition(".")[2]
        return f"{Path(self._get(self.config, 'data').source).stem}-{title}"

    def _load_weights(self) -> None:
        start, resume = self._get(self.config, "init_from"), self._get(self.config, "ckpt_path")
        network, whole = network_of(self.model)
        if self.subcommand == "calibrate" and (start or resume):
            check_uncalibrated(str(resume or start), "--ckpt_path" if resume else "--init_from")
        if start:
            if resume and self.subcommand != "unlearn":  # which compares with the original at the end
                raise RectifyError("--init_from starts a new training and --ckpt_path resumes one; give one of them.")
            replace_head = self._get(self.config, "replace_head")
            averaged = load_starting_weights(network, start, replace_head, whole)
            rank_zero_info(f"Started from {start}" + (" (its moving average of weights)" if averaged else ""))
        if resume and not Path(resume).is_dir():
            weights, _ = backbone_weights(read_checkpoint(resume, "--ckpt_path"), "--ckpt_path", whole)
            check_fit(network, weights, f"--ckpt_path {resume}", whole=whole)


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a subcommand takes beyond what the command line holds already."""
    return {name: value for name, value in arguments.items() if name not in ("model", "datamodule", "weights_only")}


def _user_error(error: BaseException) -> RectifyError:
    """The RectifyError that a parser wrapped into its own report, else the message of the error itself."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RectifyError):
            return inner
        inner = inner.__cause__ or inner.__context__
    reasons = re.findall(
        r"^ *- (?!Expected)(.+)$", str(error), re.M
    )  # what a constructor said, inside the parser's report
    what = reasons[0] if reasons else " ".join(str(error).split()) or type(error).__name__
    return RectifyError(f"The configuration cannot be built: {what}.")
