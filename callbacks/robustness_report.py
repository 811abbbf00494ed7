"""An observer: how well the network resists attacks, class by class, while it trains and when it is done."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from ..attacks import PGD, Attack
from ..errors import RectifyError
from ..metrics import Deduplicator
from ..metrics.energy_sums import Energies
from .attacked_network import check_classifier
from .averaged_weights import _check_averaged
from .batches import image_batch
from .evaluated_batches import EvaluatedBatches, Stage
from .figure_moments import FigureMoments
from .figures import log_figure
from .hashed_samples import HashedSamples
from .masking_flags import MaskingChecks
from .robustness_card import check_card_fields, make_card, write_card
from .robustness_figures import draw_class_accuracies, draw_energies, draw_history
from .robustness_history import RobustnessHistory, RobustnessRow
from .robustness_keys import check_alone, check_fresh, check_validated, keyed_scores, known_classes, validation_keys
from .robustness_tally import RobustnessTally
from .robustness_trials import AutoAttackMode, Trial, attack_name, trials_of_test

WHO = "RobustnessReport"


class RobustnessReport(EvaluatedBatches, FigureMoments):
    """Attack the evaluation images; log clean and robust accuracy by class, energies and the overfitting gap.

    A sample counts as robust if it is classified right as it is and attacked. In validation one attack is made, in a
    test several and, with them, the checks for masked gradients and the card `<run>/robustness.json`. Logged are, with
    `<attack>` such as `pgd20`: `{stage}/clean_accuracy`, `{stage}/robust_accuracy_<attack>`, both also as
    `…_worst_class`, `…_tail30` (mean of the worst 30 % of classes), `…_class_std`, `…_disparity` (best minus worst
    class) and each class's own `…_class_<label>`; the energies `{stage}/energy_clean`, `{stage}/energy_adversarial`,
    `{stage}/energy_gap`; `val/robust_gap`, best minus last robust accuracy, which survives a resume and stands in
    `<run>/robustness_history.json`; `test/robust_accuracy` under all attacks together, and `test/masking_flags`, how
    many checks failed.

    Attacks run without autocast on `pl_module(image)`, in eval mode, also where Lightning evaluates in inference mode.
    Random starts are keyed by the run's seed, the attack and the samples of a batch: the same in every epoch, and for
    equal batches the same on any rank. Training with it is bit-identical to training without it. Only the first loader
    is attacked, sanity batches are not. Where a run has several reports, keys and files that do not name the attack
    end with its name: `val/robust_gap_pgd20_l2`, `robustness_pgd20_l2.json`.

    Args:
        attack: of the validation, and the weakest of the test; by default PGD with 20 steps of 2/255 at 8/255.
        test_attack: the strong one; by default that of `attack`, as PGD with 50 steps and 10 restarts.
        every_n_epochs: epochs between attacks in training, 0 for none; the first and last validation always have one.
        samples: images attacked in a validation, chosen by a hash of their index; null for all.
        test_samples: the same in a test.
        margin: also run the test's attack on the Carlini-Wagner margin.
        autoattack: `fast` (our APGD-CE and targeted APGD) or `standard` (the whole of it, an extra) in a test.
        black_box_queries: queries of the Square attack among the checks of a test, 0 for none.
        most_class_keys: with more classes than this no class has a key of its own; the card and the figure have all.
        card: fields of the card that cannot be measured: name, authors, link, venue, …

    Raises:
        RectifyError: a bad option; images outside [0, 1]; a run without validation that was to attack it; a callback
            that monitors what is not measured every epoch; a module that returns embeddings.
    """

    def __init__(
        self,
        attack: Attack | None = None,
        test_attack: Attack | None = None,
        every_n_epochs: int = 1,
        samples: int | None = 1000,
        test_samples: int | None = None,
        margin: bool = True,
        autoattack: AutoAttackMode = "none",
        black_box_queries: int = 200,
        most_class_keys: int = 20,
        card: dict[str, Any] | None = None,
    ):
        for key, value in (("samples", samples), ("test_samples", test_samples)):
            if value is not None and value < 1:
                raise RectifyError(f"{WHO}: {key} is {value}; give at least 1, or null for all.")
        counts = {"every_n_epochs": every_n_epochs, "black_box_queries": black_box_queries}
        for key, value in {**counts, "most_class_keys": most_class_keys}.items():
            if value < 0:
                raise RectifyError(f"{WHO}: {key} is {value}; give 0 or more.")
        if autoattack not in ("none", "fast", "standard"):
            raise RectifyError(f"{WHO}: autoattack is {autoattack!r}; choose none, fast or standard.")
        super().__init__(every_n_epochs)
        attack = attack or PGD(steps=20)
        self.trials: dict[str, list[Trial]] = {
            "val": [Trial(attack_name(attack), attack)],
            "test": trials_of_test(attack, test_attack, margin, autoattack),
        }
        self.limits = {"val": samples, "test": test_samples}
        self.black_box_queries, self.card = black_box_queries, check_card_fields(card or {})
        self.most_class_keys, self._classes = most_class_keys, 0
        self.history = RobustnessHistory()
        self._fitting = False
        self._mark = ""  # ends keys and files that do not name the attack, where a run has several reports
        self._clear()

    @property
    def state_key(self) -> str:
        return self._generate_state_key(attack=self.trials["val"][0].name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        check_classifier(pl_module, WHO)
        self._classes = known_classes(trainer, pl_module)
        reports = [each for each in trainer.callbacks if isinstance(each, RobustnessReport)]  # type: ignore[attr-defined]
        check_alone([[trial.name for stage in each.trials.values() for trial in stage] for each in reports], WHO)
        self._mark = f"_{self.trials['val'][0].name}" if len(reports) > 1 else ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._every:
            _check_averaged(trainer, self)
            check_validated(trainer, WHO)
            check_fresh(trainer, self.later_keys(), self._every, WHO)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._every:  # the loaders are there only now
            check_validated(trainer, WHO)

    def later_keys(self) -> list[str]:
        """What validations of a training log, but its sanity check does not."""
        classes = self._classes if self._classes <= self.most_class_keys else 0
        return validation_keys(self.trials["val"][0].name, self._mark, classes) if self._every else []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = not trainer.sanity_checking and (trainer.state.fn != "fit" or self._due(trainer))
        self._begin("val" if due else None)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "test")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._fitting = trainer.state.fn == "fit"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        loaded = RobustnessHistory()
        loaded.load_state_dict(state_dict.get("history", []))
        mine, theirs = self.history.last, loaded.last
        # a test of the best checkpoint after training must not forget what came after that checkpoint
        if self._fitting or mine is None or (theirs is not None and theirs.step > mine.step):
            self.history = loaded
            self.history.whole = self._fitting

    def _clear(self) -> None:
        self._seen = Deduplicator()
        self._held: HashedSamples | None = None
        self._tally: RobustnessTally | None = None

    def _begin(self, stage: Stage | None) -> None:
        self._clear()
        if stage is None:
            return
        limit, trials = self.limits[stage], self.trials[stage]
        self._held = HashedSamples(limit) if limit else None
        checks = MaskingChecks(trials[0].attack, self.black_box_queries) if stage == "test" else None
        self._tally = RobustnessTally(trials, checks, WHO)

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, loader: int, stage: Stage
    ) -> None:
        if self._tally is None or loader:
            return
        own = image_batch(batch, WHO)
        if self._held is not None:
            self._held.add(own)
            return
        keep = torch.ones_like(own.label, dtype=torch.bool)
        if own.index is not None:
            keep = self._seen.keep(own.index)
        self._tally.attack(pl_module, own, keep)

    def _end(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if self._tally is None:
            return
        if self._held is not None:
            for batch, keep in self._held.chunks(pl_module.device):
                self._tally.attack(pl_module, batch, keep)
        if self._tally.energies is not None:
            self._report(trainer, pl_module, stage, self._tally, self._tally.energies.compute())
        self._clear()

    def _report(
        self, trainer: Trainer, pl_module: LightningModule, stage: Stage, tally: RobustnessTally, energies: Energies
    ) -> None:
        accuracies, mark, most = tally.accuracies(), self._mark, self.most_class_keys
        flags = tally.checks.flags() if tally.checks is not None else []
        names = [trial.name for trial in self.trials[stage]]
        scores = keyed_scores(stage, "clean_accuracy", accuracies["clean"], mark, most)
        for name in names:
            scores |= keyed_scores(stage, "robust_accuracy", accuracies[name], f"_{name}", most)
        means = zip(("clean", "adversarial", "gap"), energies.means, strict=True)
        scores |= {f"{stage}/energy_{name}{mark}": value for name, value in means}
        epoch, step = self._moment(trainer)
        if stage == "val":
            if trainer.state.fn == "fit":
                clean, robust = accuracies["clean"].overall(), accuracies[names[0]].overall()
                self.history.add(RobustnessRow(epoch, step, clean, robust, energies.means[2]))
            scores[f"val/robust_gap{mark}"] = self.history.gap
        else:
            scores |= keyed_scores(stage, "robust_accuracy", accuracies["robust"], mark, most)
            scores[f"test/masking_flags{mark}"] = float(sum(flag.raised for flag in flags))
        # equal on all ranks already; sync_dist only keeps Lightning from warning that it might not be
        pl_module.log_dict(scores, sync_dist=trainer.world_size > 1, rank_zero_only=False)
        zero = tally.checks.zero_entries() if tally.checks is not None else None
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        if stage == "val" and trainer.state.fn == "fit":
            self.history.write(run / f"robustness_history{mark}.json")
        where = f"{stage}, epoch {epoch}, step {step}"
        labels = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        under = names[0] if stage == "val" else f"{len(names)} attacks"
        drawn = draw_class_accuracies(accuracies["clean"], accuracies["robust"], under, labels, where)
        log_figure(trainer, f"{stage}/class_robustness{mark}", drawn, step)
        log_figure(trainer, f"{stage}/energies{mark}", draw_energies(energies, names[0], where), step)
        if stage == "val" and len(self.history.rows) > 1:
            log_figure(trainer, f"val/robustness_history{mark}", draw_history(self.history, names[0]), step)
        if stage == "test":
            facts = {"step": step, "zero_gradient_entries": zero, "seconds": round(tally.seconds, 1)}
            trials = self.trials[stage]
            history = self.history.reaching(run / f"robustness_history{mark}.json")
            content = make_card(trainer, pl_module, self.card, trials, accuracies, energies, history, flags, facts)
            write_card(run / f"robustness{mark}.json", content)
