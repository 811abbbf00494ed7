"""What every mixing objective owes: the hand formula, silence when off, a clean restart, its own draw on every rank."""

from pathlib import Path

import pytest
import torch
from processes import run_ranks
from pytorch_lightning import Trainer
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import DataLoader

from lightning_rectify.backbones import ResNet
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules.rectifier import Rectifier
from lightning_rectify.losses import (
    Alternate,
    BinaryCrossEntropy,
    Context,
    CutMix,
    DirichletMixup,
    EmpiricalRisk,
    FMix,
    Focal,
    ManifoldMixup,
    MixPlan,
    Mixup,
)
from lightning_rectify.losses.mixing import fields

BUILD = {
    "mixup": Mixup,
    "mixup_decoupled": lambda **k: Mixup(label="independent", **k),
    "cutmix": CutMix,
    "fmix": FMix,
    "fmix_soft": lambda **k: FMix(max_soft=0.3, **k),
    "manifold_mixup": lambda **k: ManifoldMixup(["layer1"], **k),
    "dirichlet_mixup": lambda **k: DirichletMixup(3, **k),
}
pytestmark = pytest.mark.filterwarnings("ignore:DirichletMixup")
every_objective = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(4, 1, width=8)


def batch(n: int = 12) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    image, label = torch.rand(n, 1, 8, 8, generator=g), torch.randint(4, (n,), generator=g)
    return {"image": image, "label": label, "index": torch.arange(n)}


def gradient(objective, data, context) -> tuple[torch.Tensor, torch.Tensor]:
    model = network()
    loss = objective(model, data, context).loss
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def one_hot_loss(logits, plan, label, kind):
    """The textbook form in float64: a soft label over the classes."""
    classes = logits.shape[1]
    soft = torch.zeros(len(label), classes, dtype=torch.float64)
    for d in range(plan.label_weights.shape[1]):
        one_hot = torch.nn.functional.one_hot(label[plan.partners[:, d]], classes).double()
        soft += plan.label_weights[:, d, None].double() * one_hot
    logits = logits.double()
    if kind == "cross entropy":
        return -(soft * logits.log_softmax(1)).sum(1).mean()
    p = logits.sigmoid()
    return -(soft * p.log() + (1 - soft) * (1 - p).log()).sum(1).mean()


@every_objective
@pytest.mark.parametrize("kind", ["cross entropy", "binary"])
def test_loss_is_the_hand_formula(build, kind):
    base = None if kind == "cross entropy" else BinaryCrossEntropy()
    objective, data, context = build(base=base), batch(), Context(key=(3, 0, 0, 0))
    step = objective(network(), data, context)
    plan = objective.plan(data["image"], context)
    expected = one_hot_loss(step.logits.detach(), plan, data["label"], kind)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    heavier = data["label"][plan.partners].gather(1, plan.label_weights.argmax(1)[:, None]).squeeze(1)
    assert torch.equal(step.target, heavier)
    assert torch.allclose(plan.label_weights.sum(1), torch.ones(12))
    assert step.terms["mixing_on"] == 1


def test_any_base_loss_composes():
    data, context, objective = batch(), Context(), Mixup(base=Focal(2.0))
    step = objective(network(), data, context)
    plan = objective.plan(data["image"], context)
    p = step.logits.detach().double().softmax(1)
    expected = 0
    for d in range(2):
        hit = p.gather(1, data["label"][plan.partners[:, d]][:, None]).squeeze(1)
        expected = expected - plan.label_weights[:, d].double() * (1 - hit) ** 2 * hit.log()
    assert step.loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)


@every_objective
def test_inputs_are_left_alone_and_the_draw_hangs_on_the_key(build):
    objective, data = build(), batch()
    before = {name: value.clone() for name, value in data.items()}
    state = torch.get_rng_state()
    plans = [objective.plan(data["image"], Context(key=key)) for key in [(0, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)]]
    assert torch.equal(torch.get_rng_state(), state)
    objective(network(), data, Context())
    first, again, other = (plan.apply(data["image"]) for plan in plans)
    assert all(torch.equal(before[name], data[name]) for name in data)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_objective
def test_stopped_is_plain_training_bit_for_bit(build):
    context = Context(step=5, progress=0.6)
    loss, grad = gradient(build(stop=0.5), batch(), context)
    plain_loss, plain_grad = gradient(EmpiricalRisk(), batch(), context)
    assert torch.equal(loss, plain_loss)
    assert torch.equal(grad, plain_grad)
    step = build(stop=0.5)(network(), batch(), context)
    assert step.terms["mixing_on"] == 0
    assert torch.equal(step.target, batch()["label"])
    assert build(stop=0.5)(network(), batch(), Context(progress=0.49)).terms["mixing_on"] == 1


@pytest.mark.parametrize("name", ["mixup", "cutmix", "fmix", "fmix_soft", "manifold_mixup"])
def test_lambda_one_is_plain_training_bit_for_bit(name, monkeypatch):
    # λ = 1 on every sample, through the whole path: draw, apply, weighted loss
    for module in ("mixup", "cutmix", "fmix"):
        monkeypatch.setattr(
            f"lightning_rectify.losses.mixing.{module}.beta", lambda a, b, n, *rest: torch.ones(n), raising=True
        )
    loss, grad = gradient(BUILD[name](), batch(), Context())
    plain_loss, plain_grad = gradient(EmpiricalRisk(), batch(), Context())
    assert torch.equal(loss, plain_loss)
    assert torch.equal(grad, plain_grad)


def test_a_plan_serves_any_tensor_of_the_batch():
    partners = torch.tensor([[0, 1], [1, 0]])
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    plan = MixPlan(partners, weights, weights)
    x = torch.tensor([[4.0, 8.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    mixed = plan.apply(x)
    assert torch.equal(mixed, torch.tensor([[3.0, 7.0], [2.0, 6.0]], dtype=torch.float64))
    mixed.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.25, 1.25], [0.75, 0.75]], dtype=torch.float64))
    index = torch.tensor([40, 50])
    assert torch.equal(index[plan.partners], torch.tensor([[40, 50], [50, 40]]))


# ---- resume: a run cut in half gives the weights of the run in one piece --------------------------------------------


class Samples(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        g = torch.Generator().manual_seed(i)
        return {"image": torch.rand(1, 8, 8, generator=g), "label": torch.tensor(i % 4), "index": torch.tensor(i)}


class Watched(Rectifier):
    """Keeps what each step logged."""

    def _record(self, step, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), {name: float(value) for name, value in step.terms.items()}]


class Pause(RuntimeError):
    pass


def fit(folder: Path, objective, epochs: int, until: int | None = None, ckpt: Path | None = None) -> Watched:
    model = Watched(network(), objective, optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    if until is not None:

        def stop_after(*_):
            if trainer.current_epoch + 1 == until:
                trainer.should_stop = True

        model.on_train_epoch_end = stop_after  # the schedule still spans all epochs
    trainer.fit(model, DataLoader(Samples(), batch_size=6), ckpt_path=ckpt)
    if until is not None:
        trainer.save_checkpoint(folder / "half.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "build",
    [
        lambda: FMix(stop=0.75),
        lambda: Alternate([Mixup(), CutMix(), EmpiricalRisk()]),
        lambda: Alternate([Mixup(stop=0.6), FMix()], [3, 1], "weighted"),
    ],
    ids=["stop", "strict", "weighted"],
)
def test_schedules_survive_a_resume_bit_for_bit(tmp_path, build):
    whole = fit(tmp_path, build(), 4)
    first = fit(tmp_path, build(), 4, until=2)
    second = fit(tmp_path, build(), 4, ckpt=tmp_path / "half.ckpt")
    assert first.seen + second.seen == whole.seen
    assert len(first.seen) == len(second.seen) == 8
    for one, two in zip(whole.backbone.state_dict().values(), second.backbone.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    switches = [terms.get("mixing_on") for terms in whole.seen]
    assert 1 in switches
    if isinstance(build(), FMix):
        assert switches == [1] * 12 + [0] * 4


# ---- two processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(Path(__file__).with_name("ranks_mixing.py"))


def test_two_processes_equal_one_that_replays_both_draws(ranks):
    errors = {name: result["error"] for rank in ranks for name, result in rank.items()}
    assert len(errors) == 9
    assert max(errors.values()) < 1e-9, errors


def test_ranks_draw_differently_but_alternate_together(ranks):
    for name in ("mixup", "cutmix", "fmix", "dirichlet_mixup"):
        assert ranks[0][name]["draw"] != ranks[1][name]["draw"]
    for name in ("alternate", "alternate_weighted"):
        assert ranks[0][name]["chosen"] == ranks[1][name]["chosen"]
        assert len(ranks[0][name]["chosen"]) == 3


def test_unknown_layer_is_named_at_setup():
    with pytest.raises(RectifyError, match=r"layer9.*Did you mean layer"):
        ManifoldMixup(["input", "layer9"]).setup(network())


@every_objective
def test_nothing_of_a_plan_is_read_by_the_host(build):
    # tensors without data: whatever asks for a value (item, bool, a data-dependent shape) raises
    objective = build()
    objective.draw(torch.rand(8, 1, 16, 16), None)  # the number of waves is a host constant of shape and decay
    fields._basis.cache_clear()
    with FakeTensorMode():
        image, label = torch.rand(8, 1, 16, 16), torch.zeros(8, dtype=torch.int64)
        plan = objective.draw(image, None)
        target = plan.target(label)
        loss = target.loss(plan.apply(image).flatten(1)[:, :4])
        assert loss.shape == ()
        assert target.heavier().shape == (8,)
        with pytest.raises(DataDependentOutputException):
            loss.item()  # the net has no holes
    fields._basis.cache_clear()
