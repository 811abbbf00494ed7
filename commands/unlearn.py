"""The command unlearn: make a model forget, retrain one to compare with, and report what came of it."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import __version__ as lightning_version
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from ..callbacks.weight_saliency import FILE as MASK_FILE
from ..callbacks.weight_saliency import WeightSaliency
from ..errors import RectifyError
from ..files import atomic_path
from ..lightning_modules.rectifier import CHECKPOINT_FORMAT
from ..unlearning.report import unlearning_report
from ..unlearning.report_text import report_lines
from .model_outputs import model_outputs
from .provenance import Provenance, mark_finished, update_record
from .request_log import LOG, forgotten_note, leave_out_forgotten, write_request_log
from .retrain import NOTE, Retrained, Retraining
from .run_folder import RECORD
from .starting_weights import backbone_weights, check_fit, read_checkpoint
from .tuning import Tuning
from .unlearning_callbacks import ApplyEdit, UnlearnedWeights, UnlearningCost
from .unlearning_figure import write_unlearning_figure
from .unlearning_sections import further_findings

RESULT, REPORT, TRIALS = "unlearned.ckpt", "unlearning.json", "tuning.json"


class UnlearningRun:
    """One request to forget, from the original's weights to the report.

    Args:
        cli: the command line, with trainer, model and data built and the original's weights loaded.
        retraining: how to get the models to compare with; None compares with the original alone.
        tuning: trials before the run, to choose learning rate and density by; not repeated by a resumed run.

    Raises:
        RectifyError: the module or the data cannot unlearn.
    """

    def __init__(self, cli: Any, original: str, retraining: Retraining | None, tuning: Tuning | None = None):
        self.trainer, self.model, self.data = cli.trainer, cli.model, cli.datamodule
        self.folder, self.path, self.retraining = Path(cli.run_folder), Path(original), retraining
        if not getattr(self.model, "unlearns", False):
            raise RectifyError(f"unlearn: {type(self.model).__name__} does not unlearn; leave out --module.")
        if self.data.forget is None:
            raise RectifyError("data.forget is not set; name what to forget, such as class:3 or requests.csv.")
        if self.data.schedule == "retain" and "retain" not in getattr(self.model.objective, "schedules", ()):
            raise RectifyError("data.schedule is retain, which never shows what to forget; choose another or none.")
        self._check_folder()
        leave_out_forgotten(self.data, self.path)
        if retraining is not None:
            retraining.check(cli.config[cli.subcommand]["data"].as_dict())
        self.tuning = tuning
        if tuning is not None and self.model.edit is not None:
            raise RectifyError(f"--tune_lr: {type(self.model.edit).__name__} is not trained; leave the option out.")
        self.original = copy.deepcopy(self.model.backbone).cpu()
        self.cost, self.weights = UnlearningCost(), UnlearnedWeights()

    def __call__(self, ckpt_path: str | None, weights_only: bool | None) -> None:
        if ckpt_path and self.model.edit is not None:
            name = type(self.model.edit).__name__
            raise RectifyError(f"--ckpt_path: {name} edits weights at once, there is nothing to resume; leave it out.")
        self._forget(ckpt_path, weights_only)
        if self.trainer.fast_dev_run or self.weights.state is None:
            return
        try:
            self._conclude(resumed=ckpt_path is not None)
        except BaseException as error:
            if self.trainer.is_global_zero and (self.folder / RECORD).is_file():
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                update_record(self.folder, status=status, error=str(error)[:500])
            raise

    def _check_folder(self) -> None:
        """Refuse a folder with files of other runs: this run removes checkpoints at its end."""
        original = self.path.resolve().is_relative_to(self.folder.resolve())
        config = self.folder / "config.yaml"
        if original or (config.is_file() and "retrain" not in (yaml.safe_load(config.read_text("utf-8")) or {})):
            raise RectifyError(
                f"--ckpt_path: {self.folder} is the run of {'the original' if original else 'another command'}, not of "
                "an unlearning to resume; leave --ckpt_path out."
            )

    def _conclude(self, resumed: bool) -> None:
        """Save the unlearned model, find those to compare with, report, and leave nothing that remembers."""
        assert self.weights.state is not None
        unlearned = copy.deepcopy(self.original)
        unlearned.load_state_dict(self.weights.state)
        result = self._save(resumed)
        retrained = []
        if self.retraining is not None:
            retrained = self.retraining.run(self.data, self.folder, self.trainer.is_global_zero)
        self._report(unlearned, [self._loaded(one) for one in retrained], [one.seconds for one in retrained])
        if self.trainer.is_global_zero:
            self._leave_clean(result)
            mark_finished(self.folder)

    def _forget(self, ckpt_path: str | None, weights_only: bool | None) -> None:
        callbacks = self.trainer.callbacks
        if self.model.edit is None:
            if self.tuning is not None:
                self.tuning.run(self.model, self.data, callbacks, self.original, self.folder / TRIALS)
            callbacks.insert(0, self.cost)  # its clock starts before the mask is made
            callbacks.append(self.weights)  # after those that average or check weights
            self.trainer.fit(self.model, datamodule=self.data, ckpt_path=ckpt_path, weights_only=weights_only)
            return
        if any(isinstance(callback, WeightSaliency) for callback in callbacks):
            raise RectifyError(
                f"WeightSaliency masks gradients and {type(self.model.edit).__name__} has none; take one out."
            )
        callbacks.append(ApplyEdit(self.cost, self.weights))
        self.trainer.validate(self.model, datamodule=self.data, verbose=False)
        for callback in callbacks:
            if isinstance(callback, Provenance):
                callback.began = True
                callback.on_train_start(self.trainer, self.model)

    def _save(self, resumed: bool) -> Path:
        """The backbone alone: teachers, anchors and the weights held by a mask know what was forgotten."""
        path = self.folder / "checkpoints" / RESULT
        if not self.trainer.is_global_zero:
            return path
        if path.exists() and not resumed:
            raise RectifyError(f"{path} exists; choose another --name, nothing is written over.")
        assert self.weights.state is not None
        checkpoint = {
            "state_dict": {f"backbone.{name}": value for name, value in self.weights.state.items()},
            "epoch": self.trainer.current_epoch,
            "global_step": self.trainer.global_step,
            "pytorch-lightning_version": lightning_version,
            "rectify": {"format": CHECKPOINT_FORMAT},
            "unlearned": forgotten_note(self.data),
        }
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)
        rank_zero_info(f"Unlearned model: {path}")
        write_request_log(self.folder / LOG, self.data.request, self.path, path, self._mask(), self.data)
        return path

    def _mask(self) -> Path | None:
        for callback in self.trainer.callbacks:
            if isinstance(callback, WeightSaliency) and callback.mask is not None:
                path = self.folder / MASK_FILE
                if not path.exists():  # a mask that was read, or came with the checkpoint of an interrupted run
                    callback.mask.save(path)
                return path
        return None

    def _loaded(self, one: Retrained) -> nn.Module:
        weights, _ = backbone_weights(read_checkpoint(one.weights, "--retrain"), "--retrain")
        backbone = copy.deepcopy(self.original)
        check_fit(backbone, weights, f"--retrain {one.weights}")
        backbone.load_state_dict(weights)
        return backbone

    def _report(self, unlearned: nn.Module, retrained: list[nn.Module], seconds: list[float]) -> None:
        device = self.trainer.strategy.root_device
        outputs: list[dict[str, dict[str, Tensor]]] = []
        for model in (self.original, unlearned, *retrained):
            outputs.append(model_outputs(model, self.data, device))
        if not self.trainer.is_global_zero:
            return
        drift = [c.off_mask_drift for c in self.trainer.callbacks if isinstance(c, WeightSaliency)]
        report = unlearning_report(
            outputs[0],
            outputs[1],
            outputs[2:] or None,
            cost=self.cost.report(),
            retrain_cost={"seconds": sum(seconds) / len(seconds)} if seconds else None,
            off_mask_drift=drift[0] if drift else None,
            sections=further_findings(self.data, self.original, unlearned, retrained, device),
        )
        with atomic_path(self.folder / REPORT) as path:
            path.write_text(json.dumps(report, indent=2) + "\n")
        write_unlearning_figure(
            self.folder / "figures" / "unlearning.png", report, *outputs[:2], outputs[2] if retrained else None
        )
        print(report_lines(report))
        print(f"\nReport: {self.folder / REPORT}")

    def _leave_clean(self, result: Path) -> None:
        """Remove this run's own checkpoints to resume from: they hold the original's weights and optimizer state."""
        for path in result.parent.iterdir():
            if path != result and path.resolve() != self.path.resolve():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / NOTE).unlink(missing_ok=True)
