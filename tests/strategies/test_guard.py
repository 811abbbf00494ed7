"""Each rule refuses what it is for, says so in one sentence, and leaves its neighbours alone."""

import pytest
import pytorch_lightning as pl
import torch
from cells import make_backbone
from probes import PROBES
from pytorch_lightning.callbacks import EMAWeightAveraging, GradientAccumulationScheduler
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier
from lightning_rectify.losses import EmpiricalRisk, L1Sparse
from lightning_rectify.strategies import FSDP2, DeepSpeed, check, kind
from lightning_rectify.strategies.guard import RULES

SGD, ADAMW, LBFGS, MUON = (getattr(torch.optim, name) for name in ("SGD", "AdamW", "LBFGS", "Muon"))

ELEMENTWISE = [getattr(torch.optim, name) for name in ("SGD", "Adam", "RMSprop", "Adagrad", "NAdam", "RAdam", "Rprop")]


class Mask(pl.Callback):
    masks_weights = True


class Average(pl.Callback):
    averages_weights = True


class Meta(pl.Callback):
    double_backward = True


class Shrinking(torch.optim.SGD):
    """Somebody's optimizer with a decay that no option names."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            torch._foreach_mul_(group["params"], 0.999)


class OwnBackward(Classifier):
    def backward(self, loss):
        loss.backward()


def zero(stage):
    return lambda: DeepSpeed(stage=stage)


def setting(strategy, objective=None, callbacks=(), optimizer=None, module=Classifier, **trainer):
    """A trainer and a module as a rule meets them; nothing is launched."""
    built = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=list(callbacks), **trainer,
    )  # fmt: skip
    built._accelerator_connector.strategy = strategy()
    network = module(make_backbone(), objective or EmpiricalRisk())
    if optimizer is not None:
        weights = [torch.nn.Parameter(torch.zeros(2, 2))]
        built.strategy._optimizers = [optimizer(weights)]
    return built, network


EMA = EMAWeightAveraging
CASES = [  # rule, what breaks it, words of the sentence
    ("double_backward", (zero(3), PROBES["GradientPenalty"]()), "GradientPenalty .* zero3 .* use ddp, zero1 or zero2"),
    ("double_backward", (FSDP2, PROBES["GradientPenalty"]()), "GradientPenalty .* fsdp2"),
    ("double_backward", (FSDP2, None, (Meta(),)), "Meta .* fsdp2"),
    ("whole_weights", (zero(3), L1Sparse()), "L1Sparse reads all weights .* zero3"),
    ("writes_weights", (FSDP2, PROBES["Perturbed"]()), "Perturbed .* use ddp"),
    ("writes_weights", (zero(3), PROBES["Perturbed"]()), "Perturbed .* use ddp"),
    ("writes_after_step", (zero(1), PROBES["Perturbed"]()), "Perturbed .* after the optimizer step, which zero1"),
    ("moving_copies", (zero(3), PROBES["AttackedTeacher"]()), "AttackedTeacher moves a copy .* zero3"),
    ("averaged_weights", (FSDP2, None, (Average(),)), "Average averages weights that fsdp2"),
    ("averaged_weights", (zero(2), None, (EMA(decay=0.9),)), "EMAWeightAveraging averages weights that zero2"),
    ("masked_decay", (DDPStrategy, None, (Mask(),), lambda w: ADAMW(w, weight_decay=0.1)), "weight_decay 0.1"),
    ("masked_decay", (DDPStrategy, None, (Mask(),), lambda w: SGD(w, weight_decay=0.5)), "weight_decay 0.5"),
    ("masked_matrix_optimizer", (DDPStrategy, None, (Mask(),), lambda w: MUON(w, weight_decay=0.0)), "Muon moves"),
    ("masked_matrix_optimizer", (DDPStrategy, None, (Mask(),), Shrinking), "Shrinking moves weights that get no"),
    ("plain_deepspeed", (DeepSpeedStrategy,), "DeepSpeedStrategy divides .*configs/trainer/zero1.yaml"),
    ("ignored_hooks", (zero(2), None, (), None, OwnBackward), "backward of OwnBackward is overridden"),
    ("accumulation_schedule", (zero(2), None, (GradientAccumulationScheduler({0: 1}),)), "changes accumulate"),
    ("fsdp1", (FSDPStrategy,), "use strategy FSDP2"),
    ("tensor_parallel", (lambda: ModelParallelStrategy(tensor_parallel_size=2),), "tensor_parallel_size is 2"),
    ("lbfgs", (FSDP2, None, (), LBFGS), "LBFGS flattens .* use ddp"),
]
FINE = [
    (DDPStrategy, PROBES["GradientPenalty"](), (Meta(), EMA(decay=0.9), Average())),
    (zero(2), PROBES["GradientPenalty"]()),
    (FSDP2, L1Sparse()),
    (DDPStrategy, PROBES["Perturbed"]()),
    (zero(2), PROBES["AttackedTeacher"]()),
    (zero(3), PROBES["FrozenTeacher"]()),
    (DDPStrategy, None, (Mask(),), lambda w: ADAMW(w, weight_decay=0.0)),
    *((DDPStrategy, None, (Mask(),), lambda w, o=o: o(w, lr=0.0)) for o in ELEMENTWISE),
    (DDPStrategy, None, (), lambda w: ADAMW(w, weight_decay=0.1)),
    (DDPStrategy, None, (), LBFGS),
    (lambda: ModelParallelStrategy(tensor_parallel_size=1),),
    (zero(3),),
]


@pytest.mark.parametrize(("rule", "broken", "words"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_refused(rule, broken, words):
    with pytest.raises(RectifyError, match=words) as caught:
        check(*setting(*broken))
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and "{" not in sentence
    own = next(r.sentence for r in RULES if r.name == rule)
    assert sentence.endswith(own.rpartition("}")[2])  # it was this rule that spoke


def test_clipping_by_value_is_refused():
    built, network = setting(zero(2), gradient_clip_val=1.0, gradient_clip_algorithm="value")
    with pytest.raises(RectifyError, match="gradient_clip_algorithm is value, and zero2 clips by norm only"):
        check(built, network)


def test_sync_batchnorm_is_refused():
    built, network = setting(FSDP2)
    built.strategy._layer_sync = object()  # what Trainer(sync_batchnorm=True) sets
    with pytest.raises(RectifyError, match="sync_batchnorm is set, and fsdp2 ignores it"):
        check(built, network)


@pytest.mark.parametrize("sound", FINE)
def test_left_alone(sound):
    check(*setting(*sound))


def test_every_rule_is_tested():
    assert {rule.name for rule in RULES} == {case[0] for case in CASES} | {"clip_by_value", "sync_batchnorm"}


def test_kinds():
    built = (DDPStrategy(), FSDP2(), DeepSpeed(stage=1), DeepSpeed(stage=3), FSDPStrategy())
    assert [kind(s) for s in built] == ["replicated", "fsdp2", "zero1", "zero3", "fsdp1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"stage": 4}, "stage is 4; choose 1, 2 or 3"), ({"bucket": 0}, "bucket is 0")],
)
def test_bad_values_of_deepspeed(arguments, words):
    with pytest.raises(RectifyError, match=words):
        DeepSpeed(**arguments)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
def test_precisions_that_round_master_weights_are_refused(precision):
    with pytest.raises(RectifyError, match=f"trainer.precision is {precision}"):
        pl.Trainer(accelerator="cpu", devices=1, strategy=DeepSpeed(), precision=precision, logger=False)


def test_missing_deepspeed_names_the_extra(monkeypatch):
    monkeypatch.setattr("lightning_rectify.strategies.deepspeed.find_spec", lambda name: None)
    with pytest.raises(RectifyError, match=r"pip install 'lightning-rectify\[deepspeed\]'"):
        DeepSpeed()
