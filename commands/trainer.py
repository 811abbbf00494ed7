"""The trainer whose methods are the subcommands; what they do stands in the files of their names."""

from typing import Any

from pytorch_lightning import Trainer

from .explain import DEFAULT_METHODS


class RectifyTrainer(Trainer):
    """A Trainer with the signatures of our own subcommands, which the command line reads."""

    def unlearn(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        retrain: bool = False,
        retrain_config: str | None = None,
        retrain_seeds: int = 1,
        tune_lr: list[float] | None = None,
        tune_density: list[float] | None = None,
    ) -> None:
        """Make a trained model forget the samples of data.forget, and report what came of it.

        Args:
            model: an Unlearner.
            datamodule: with a forget request.
            ckpt_path: checkpoint of an interrupted unlearning to resume.
            weights_only: read that checkpoint without unpickling code.
            retrain: train again without the samples to compare with; done once for a config and request.
            retrain_config: the config the original was trained with; by default the one in its run folder.
            retrain_seeds: so many models are retrained, to know their spread.
            tune_lr: learning rates to try before, by the gap on validation samples.
            tune_density: densities of the weight mask to try with each.
        """
        raise NotImplementedError("RectifyCLI.unlearn does this")

    def explain(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        methods: tuple[str, ...] = DEFAULT_METHODS,
        layer: str | None = None,
        samples: int = 16,
        images: int = 200,
    ) -> None:
        """Study a trained model by saliency maps of its test images: figures, explain.json and explain.csv.

        Args:
            model: a Classifier.
            datamodule: whose test images are explained.
            ckpt_path: checkpoint with the weights.
            weights_only: here for the configs of runs; a checkpoint is always read without unpickling code.
            methods: names of methods, as of the callback SaliencyMaps.
            layer: for methods that read one; by default the last with a spatial output.
            samples: images in the panel.
            images: images that measures and mean maps are taken of.
        """
        raise NotImplementedError("RectifyCLI.explain does this")

    def calibrate(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        maps: list[str] | None = None,
        score: str = "nll",
        folds: int = 3,
    ) -> None:
        """Fit post-hoc maps on the validation split and save a checkpoint whose probabilities are calibrated.

        Args:
            model: a Classifier.
            datamodule: with a validation and a test split.
            ckpt_path: checkpoint with the weights.
            weights_only: here for the configs of runs; a checkpoint is always read without unpickling code.
            maps: names of maps, as temperature or isotonic; all by default.
            score: nll or brier, by which one is chosen on held-out folds of the validation split.
            folds: parts of the validation split that are held out in turn.
        """
        raise NotImplementedError("RectifyCLI.calibrate does this")
