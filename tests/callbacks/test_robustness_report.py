"""The report says what a plain loop over the split says, in one process and in two, and leaves training untouched."""

import json
import re
from pathlib import Path

import pytest
import torch
from foreign import IMAGES, LABELS, Data, Foreign, WithOutputs, trainer
from PIL import Image
from processes import run_ranks
from pytorch_lightning.callbacks import ModelCheckpoint
from robust_cases import EPS, report, trained
from torch import nn
from torch.nn import functional as F

from lightning_rectify.attacks import APGD, FGSM, PGD
from lightning_rectify.callbacks import RobustnessHistory, RobustnessReport, RobustnessRow, energy_phases
from lightning_rectify.callbacks.batches import ImageBatch
from lightning_rectify.callbacks.hashed_samples import HashedSamples
from lightning_rectify.callbacks.robustness_keys import validation_keys
from lightning_rectify.errors import RectifyError
from lightning_rectify.randomness import fold, keyed_generator


def plain(metrics):
    return {name: float(value) for name, value in metrics.items()}


def attacked(net, image, label, steps):
    """The straightforward loop from the image itself."""
    x = image.clone()
    for _ in range(steps):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(x), label, reduction="sum"), x)
        x = x.detach() + EPS / 4 * slope.sign()
        x = torch.max(torch.min(x, image + EPS), image - EPS).clamp(0, 1)
    return x.detach()


def by_class(right, label):
    shares = sorted(float(right[label == c].float().mean()) for c in label.unique())
    spread = torch.tensor(shares, dtype=torch.float64)
    return {
        "": float(right.float().mean()),
        "_worst_class": shares[0],
        "_tail30": sum(shares[:3]) / 3,
        "_class_std": float(spread.std(correction=0)),
        "_disparity": shares[-1] - shares[0],
        **{f"_class_{c}": float(right[label == c].float().mean()) for c in label.unique().tolist()},
    }


def expected(net, rows=None, stage="val", steps=4):
    """Every key of a validation, from a plain loop over the rows."""
    rows = torch.arange(1000, 1301) if rows is None else rows
    net = net.eval()
    image, label = IMAGES[rows], LABELS[rows]
    x = attacked(net, image, label, steps)
    with torch.no_grad():
        clean, found = net(image).double(), net(x).double()
    right = clean.argmax(1) == label
    robust = right & (found.argmax(1) == label)
    energy = [-logits.exp().sum(1).log() for logits in (clean, found)]
    keys = {f"{stage}/clean_accuracy{name}": value for name, value in by_class(right, label).items()}
    keys |= {f"{stage}/robust_accuracy{name}_pgd{steps}": value for name, value in by_class(robust, label).items()}
    keys |= {
        f"{stage}/energy_clean": float(energy[0].mean()),
        f"{stage}/energy_adversarial": float(energy[1].mean()),
        f"{stage}/energy_gap": float((energy[0] - energy[1]).mean()),
    }
    return keys


def hashed(samples, rows=range(1000, 1301)):
    """The rows a share of the validation data consists of, by its definition."""
    return torch.tensor(sorted(map(int, rows), key=lambda index: fold("robustness", index))[:samples])


@pytest.fixture(scope="module")
def net():
    return trained()


@pytest.mark.parametrize(("samples", "dicts"), [(None, True), (None, False), (40, True)])
def test_logs_what_a_plain_loop_finds(tmp_path, net, samples, dicts):
    run = trainer(tmp_path, report(samples=samples))
    run.validate(net, Data(dicts=dicts), verbose=False)  # one process, so Lightning runs this in inference mode
    found = plain(run.callback_metrics)
    ours, classes = run.callbacks[0], {name for name in found if re.search(r"_class_\d", name)}
    assert set(ours.later_keys()) == set(found) - classes  # a foreign module does not state how many classes it has
    assert set(validation_keys("pgd4", classes=10)) == set(found) and len(classes) == 20
    assert found.pop("val/robust_gap") == 0
    assert found == pytest.approx(expected(net, hashed(40) if samples else None), abs=2e-5)
    assert 0.2 < found["val/robust_accuracy_pgd4"] < found["val/clean_accuracy"] - 0.1
    names = sorted(str(path.relative_to(tmp_path / "figures")) for path in tmp_path.rglob("*.png"))
    assert names == ["val_class_robustness/step_00000000.png", "val_energies/step_00000000.png"]
    assert Image.open(tmp_path / "figures" / names[0]).size[0] > 600


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(Path(__file__).with_name("ranks_robustness_report.py"), str(folder))


def test_two_processes_with_padding_log_what_one_finds(ranks, net, tmp_path):
    folder, reports = ranks
    for found in (reports[0]["metrics"], reports[1]["metrics"]):
        assert {**expected(net), "val/robust_gap": 0} == pytest.approx(found["all"], abs=2e-5)
        assert {**expected(net, hashed(40)), "val/robust_gap": 0} == pytest.approx(found["share"], abs=2e-5)
        strong = expected(net, hashed(50), "test", 8)
        assert found["test"]["test/robust_accuracy_pgd8"] == pytest.approx(strong["test/robust_accuracy_pgd8"])
    assert reports[0]["warnings"] == reports[1]["warnings"] == []
    assert reports[0]["metrics"] == reports[1]["metrics"]
    card = json.loads((folder / "test" / "robustness.json").read_text())
    assert card["samples"] == 50 and card["threat_model"] == "Linf"
    assert card["accuracy"]["pgd8"]["overall"] == pytest.approx(strong["test/robust_accuracy_pgd8"])
    assert len(list((folder / "all").rglob("*.png"))) == 2


def test_training_on_split_weights_is_bit_identical_with_and_without_it(ranks):
    for found in ranks[1]:
        assert len(found["split"][0]) == 4 and found["split"][0] == found["split"][1]
        assert "val/robust_accuracy_pgd4" in found["split_logged"]
    assert ranks[1][0]["split_logged"] == ranks[1][1]["split_logged"]


def test_random_starts_are_keyed_by_the_samples_of_a_batch(ranks, net):
    """One process replays both ranks' batches by their keys."""
    rows = [torch.arange(1000 + rank, 1301, 2).tolist() for rank in range(2)]
    rows[1].append(1000)  # the padding
    right = {}
    for mine in rows:
        for start in range(0, len(mine), 32):
            ids = mine[start : start + 32]
            draw = keyed_generator(0, "robustness", "pgd4", *ids)
            image, label = IMAGES[ids], LABELS[ids]
            x = PGD(EPS, EPS / 4, 4)(net.eval(), image, label, generator=draw).image
            hit = (net(x).argmax(1) == label) & (net(image).argmax(1) == label)
            for index, good in zip(ids, hit.tolist(), strict=True):
                right.setdefault(index, good)
    assert len(right) == 301
    found = ranks[1][0]["metrics"]["random"]["val/robust_accuracy_pgd4"]
    assert found == pytest.approx(sum(right.values()) / 301)


def test_training_is_bit_identical_with_and_without_it(tmp_path):
    losses, weights, random = [], [], []
    for callbacks in ([], [report("uniform")]):
        torch.manual_seed(1)
        net = Foreign()
        net.net[3].bias.requires_grad_(False)
        trainer(tmp_path, *callbacks, val_check_interval=2).fit(net, Data(train=128, val=(1000, 1064)))
        losses.append(net.losses)
        weights.append({name: value.clone() for name, value in net.state_dict().items()})
        random.append(torch.get_rng_state())
        assert [p.requires_grad for p in net.net[3].parameters()] == [True, False]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert torch.equal(random[0], random[1])
    history = [path.name for path in (tmp_path / "figures" / "val_robustness_history").iterdir()]
    assert len(history) == 3  # from the second of four validations on


def test_best_and_last_survive_a_resume_and_a_test(tmp_path):
    torch.manual_seed(0)
    monitored = {"monitor": "val/robust_accuracy_pgd4", "mode": "max"}
    save = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, filename="{epoch}", **monitored)
    first, options = report(samples=64), {"enable_checkpointing": True, "num_sanity_val_steps": 2}
    run = trainer(tmp_path, first, save, max_epochs=3, **options)
    net = Foreign()
    run.fit(net, Data())
    assert [(row.epoch, row.step) for row in first.history.rows] == [(0, 8), (1, 16), (2, 24)]
    robust = [row.robust for row in first.history.rows]
    assert first.history.best.robust == max(robust) and first.history.gap == max(robust) - robust[-1]
    assert float(run.callback_metrics["val/robust_gap"]) == pytest.approx(first.history.gap)
    assert float(save.best_model_score) == pytest.approx(first.history.best.robust)
    again = report(samples=64)
    torch.manual_seed(0)
    resumed = trainer(tmp_path, again, ModelCheckpoint(tmp_path / "again"), max_epochs=3, **options)
    resumed.fit(Foreign(), Data(), ckpt_path=tmp_path / "saved" / "epoch=1.ckpt", weights_only=True)
    assert again.history.rows[:2] == first.history.rows[:2]
    assert [row.epoch for row in again.history.rows] == [0, 1, 2]
    # a test of an early checkpoint knows from the run's folder what came later; elsewhere it says that it does not
    (tmp_path / "else").mkdir()
    for folder, callback, told in (
        (tmp_path, first, first.history),
        (tmp_path, report(), again.history),
        (tmp_path / "else", report(), None),
    ):
        tested = trainer(folder, callback)
        tested.test(Foreign(), Data(val=(1000, 1016)), ckpt_path=tmp_path / "saved" / "epoch=1.ckpt",
                    verbose=False, weights_only=True)  # fmt: skip
        card = json.loads((folder / "robustness.json").read_text())
        found = card["validation"]
        assert card["step"] == 16 and found["best"]["robust"] == (told or callback.history).best.robust
        if told is None:
            assert len(callback.history.rows) == 2
            assert found["last"] is found["robust_gap"] is found["phase"] is None
        else:
            assert found["robust_gap"] == told.gap and found["last"]["epoch"] == 2
    (tmp_path / "robustness_history.json").write_text("[{]")
    assert again.history.reaching(tmp_path / "robustness_history.json") is again.history


def test_every_n_epochs_and_none(tmp_path):
    for every, epochs in ((2, [0, 2, 3]), (0, [])):
        callback = report(samples=16, every_n_epochs=every)
        trainer(tmp_path, callback, max_epochs=4).fit(Foreign(), Data(train=32))
        assert [row.epoch for row in callback.history.rows] == epochs
        assert bool(callback.later_keys()) == bool(every)


def test_the_card_holds_what_is_logged(tmp_path, net):
    fields = {"name": "digits", "authors": "A. Author", "number_forward_passes": "2"}
    callback = report(autoattack="fast", card=fields, black_box_queries=30, test_samples=48)
    callback.trials["test"][-1].attack.first.steps = callback.trials["test"][-1].attack.second.steps = 5
    run = trainer(tmp_path, callback)
    run.test(net, Data(class_names=[f"digit {c}" for c in range(10)]), verbose=False)
    found = plain(run.callback_metrics)
    card = json.loads((tmp_path / "robustness.json").read_text())
    required = {"link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
                "architecture", "eps", "clean_acc", "reported", "autoattack_acc"}  # fmt: skip
    assert required <= set(card) and {key: card[key] for key in fields} == fields
    assert card["eps"] == "0.06" and card["threat_model"] == "Linf" and card["architecture"] == "Foreign"
    assert card["clean_acc"] == f"{100 * found['test/clean_accuracy']:.2f}" and card["autoattack_acc"] is None
    names = ["pgd4", "pgd8", "cw8", "autoattack_fast"]
    assert list(card["attacks"]) == names
    for name in names:
        assert card["accuracy"][name]["overall"] == pytest.approx(found[f"test/robust_accuracy_{name}"])
        assert found["test/robust_accuracy"] <= found[f"test/robust_accuracy_{name}"] + 1e-9
    assert card["reported"] == f"{100 * found['test/robust_accuracy']:.2f}"
    assert found["test/robust_accuracy_autoattack_fast"] <= found["test/robust_accuracy_pgd8"] + 1 / 48
    assert card["flags"] and found["test/masking_flags"] == sum(flag["raised"] for flag in card["flags"])
    assert not any(flag["raised"] for flag in card["flags"]), card["flags"]
    assert card["class_names"][3] == "digit 3" and len(card["accuracy"]["clean"]["per_class"]) == 10
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == ["test_class_robustness", "test_energies"]


class Masked(Foreign):
    """A network that hides its gradient in a way of one's choice."""

    def __init__(self, way, net):
        super().__init__()
        self.way, self.inner = way, net

    def forward(self, image):
        if self.way == "staircase":  # sixteen grey levels, flat between them
            image = (image * 16).round() / 16
        logits = self.inner(image)
        if self.way == "large":
            return logits * 1e4
        if self.way == "random":
            return logits + 0.1 * torch.randn_like(logits)
        return logits.softmax(1) if self.way == "softmax" else logits


@pytest.mark.parametrize(
    ("way", "flag"),
    [
        ("large", "zero_gradient"),
        ("large", "loss_scale"),
        ("staircase", "zero_gradient"),
        ("staircase", "black_box_below_white_box"),
        ("random", "random_output"),
        ("softmax", "softmax_output"),
    ],
)
def test_masked_gradients_are_flagged(tmp_path, net, way, flag):
    callback = report(margin=False, black_box_queries=60, test_samples=96)
    trainer(tmp_path, callback).test(Masked(way, net), Data(), verbose=False)
    card = json.loads((tmp_path / "robustness.json").read_text())
    raised = {entry["name"] for entry in card["flags"] if entry["raised"]}
    assert flag in raised and card["unreliable"]


def test_more_steps_that_raise_accuracy_are_flagged():
    from lightning_rectify.callbacks.masking_flags import MaskingChecks

    checks, label = MaskingChecks(PGD(EPS, EPS, 1), 0), LABELS[:100]
    right = torch.ones(100, dtype=torch.bool)
    weak = right.clone()
    weak[:20] = False
    checks.add(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGES[:100], label, right, right, weak, right, weak,
               torch.Generator())  # fmt: skip
    flags = {flag.name: flag for flag in checks.flags()}
    steps = flags["more_steps_raise_accuracy"]
    assert steps.raised and steps.value == 0.2 and steps.limit == pytest.approx(2 * 20**0.5 / 100)
    assert flags["black_box_below_white_box"].value is None and not flags["black_box_below_white_box"].raised


def test_outputs_of_the_step_are_not_needed_and_modes_stay(tmp_path):
    seen = []

    class Look(RobustnessReport):
        def on_validation_batch_end(self, trainer, pl_module, *rest):
            pl_module.net[1].train()  # as a step of one's own may do
            pl_module.attacked_in.clear()
            super().on_validation_batch_end(trainer, pl_module, *rest)
            seen.append(([m.training for m in pl_module.net], list(pl_module.attacked_in)))
            pl_module.net[1].eval()

    class Own(WithOutputs):
        def __init__(self):
            super().__init__()
            self.attacked_in = []

        def forward(self, image):
            self.attacked_in.append(self.net[1].training)
            return super().forward(image)

    net = Own()
    statistics = net.net[1].running_mean.clone()
    trainer(tmp_path, Look(PGD(EPS, EPS, 2), samples=None)).validate(net, Data(), verbose=False)
    assert len(seen) == 10
    for modes, attacked_in in seen:
        assert modes == [place == 1 for place in range(len(net.net))]
        assert attacked_in and not any(attacked_in)
    assert torch.equal(net.net[1].running_mean, statistics)
    assert all(p.grad is None for p in net.parameters())


def test_two_threat_models_are_two_reports(tmp_path, net):
    second = RobustnessReport(PGD(0.5, 0.125, 3, "l2"), PGD(0.5, 0.125, 5, "l2"), samples=None, black_box_queries=0)
    both = [report(samples=32, test_samples=32), second]
    assert both[0].state_key != second.state_key
    run = trainer(tmp_path, *both)
    data = Data(val=(1000, 1064))
    run.validate(net, data, verbose=False)
    logged = {name for name in run.callback_metrics if not re.search(r"_class_\d", name)}
    assert logged == {key for each in both for key in each.later_keys()}
    rows = torch.arange(1000, 1064)
    alone = trainer(tmp_path / "alone", RobustnessReport(second.trials["val"][0].attack, samples=None))
    alone.validate(net, data, verbose=False)
    for key in ("val/energy_gap", "val/clean_accuracy"):
        assert run.callback_metrics[f"{key}_pgd3_l2"] == alone.callback_metrics[key]
    chosen = hashed(32, rows)
    right = net.eval()(IMAGES[chosen]).argmax(1) == LABELS[chosen]
    assert float(run.callback_metrics["val/clean_accuracy_pgd4"]) == pytest.approx(float(right.float().mean()))
    run.test(net, data, verbose=False)
    for name, model in (("pgd4", "Linf"), ("pgd3_l2", "L2")):
        assert json.loads((tmp_path / f"robustness_{name}.json").read_text())["threat_model"] == model
    with pytest.raises(RectifyError, match="two of them run cw50x10, pgd50x10"):
        trainer(tmp_path, RobustnessReport(PGD(steps=2)), RobustnessReport(PGD(steps=3))).validate(net, data)


def test_the_strong_attack_takes_its_step_from_the_weak_one_or_the_radius():
    steps = [RobustnessReport(each).trials["test"][1].attack.step_size
             for each in (PGD(0.1, 0.01, 20), APGD(2.0, 5, "l2"), FGSM(0.1))]  # fmt: skip
    assert steps == pytest.approx([0.01, 0.5, 0.025])


def test_a_key_measured_now_and_then_is_not_monitored(tmp_path):
    def fit(**options):
        save = ModelCheckpoint(tmp_path, monitor="val/robust_accuracy_pgd4", mode="max")
        run = trainer(tmp_path, report(samples=16, every_n_epochs=2), save, enable_checkpointing=True, **options)
        run.fit(Foreign(), Data(train=32, val=(1000, 1016)))
        return save

    with pytest.raises(RectifyError, match="val/robust_accuracy_pgd4, which RobustnessReport measures every 2"):
        fit()
    assert fit(check_val_every_n_epoch=2, num_sanity_val_steps=0).best_model_path  # each validation has one


def test_a_share_is_the_same_for_any_batch_size():
    chosen = []
    for size in (7, 32, 301):
        held = HashedSamples(50)
        for rows in torch.arange(1000, 1301).split(size):
            held.add(ImageBatch(IMAGES[rows], LABELS[rows], rows))
            held.add(ImageBatch(IMAGES[rows], LABELS[rows], rows))  # padding
        pieces = held.chunks(torch.device("cpu"))
        assert all(bool(keep.all()) and len(keep) <= size for _, keep in pieces)
        ids = torch.cat([batch.index for batch, _ in pieces])
        images = torch.cat([batch.image for batch, _ in pieces])
        assert torch.equal(images, IMAGES[ids])
        chosen.append(ids.tolist())
    assert chosen[0] == chosen[1] == chosen[2] == hashed(50).tolist()


def test_history_and_phases():
    history = RobustnessHistory()
    assert history.best is None and history.gap == 0
    for step, robust in ((1, 0.3), (2, 0.5), (3, 0.4), (2, 0.45)):  # a resume from before step 3
        history.add(RobustnessRow(step, step, 0.9, robust, 0.1))
    assert [row.step for row in history.rows] == [1, 2] and history.gap == 0
    history.add(RobustnessRow(3, 3, 0.9, 0.25, 0.1))
    assert history.gap == pytest.approx(0.2) and history.best.step == 2
    other = RobustnessHistory()
    other.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert other.rows == history.rows
    trace = [2.0, 1.5, 1.0, 0.9, 0.92, 0.88, 0.9, 0.91, 0.89, 0.9, 0.4, 0.1, -0.2]
    phases = energy_phases(trace)
    assert phases[:3] == ["settling"] * 3 and phases[5:10] == ["stable"] * 5 and phases[10:] == ["falling"] * 3
    assert energy_phases([]) == [] and energy_phases([1.0] * 5)[-1] == "stable"


def test_the_page_names_the_logged_keys(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "robustness_report.md").read_text()
    named = set(re.findall(r"`((?:val|test)/[\w<>]+)`", page))
    net = Foreign()
    run = trainer(tmp_path, RobustnessReport(samples=8, test_samples=8, test_attack=PGD(steps=2), black_box_queries=2))
    run.fit(net, Data(train=32))
    logged = set(run.callback_metrics)
    run.test(net, Data(), verbose=False)
    logged |= set(run.callback_metrics)
    logged |= {path.parent.name.replace("_", "/", 1) for path in tmp_path.rglob("*.png")}
    assert len(named) > 15
    for key in named:
        attacked = (key.replace("<attack>", name) for name in ("pgd20", "pgd2"))
        assert {each.replace("<label>", str(c)) for each in attacked for c in range(10)} & logged, key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"test_samples": -1}, "test_samples is -1"),
        ({"every_n_epochs": -1}, "every_n_epochs is -1"),
        ({"black_box_queries": -1}, "black_box_queries is -1"),
        ({"autoattack": "full"}, "autoattack is 'full'; choose none, fast or standard"),
        ({"card": {"nam": "x"}}, "card has no field 'nam'. Did you mean name"),
        ({"card": {"clean_acc": "99"}}, "clean_acc is measured"),
        ({"attack": PGD(steps=5), "test_attack": PGD(steps=5)}, "both pgd5; give test_attack more steps"),
        ({"attack": PGD(0.1, steps=5), "test_attack": PGD(0.2, steps=9)}, "eps 0.1, test_attack linf with eps 0.2"),
        ({"attack": PGD(0.1, steps=5), "test_attack": PGD(0.1, steps=9, norm="l2")}, "test_attack l2 with eps 0.1"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(RectifyError, match=re.escape(words)):
        RobustnessReport(**options)


class _Normalised(Data):
    def _loader(self, start, stop):
        rows = [{"image": 3 * IMAGES[i] - 1, "label": LABELS[i]} for i in range(8)]
        return torch.utils.data.DataLoader(rows, 4)


class _Tuple(Foreign):
    def forward(self, image):
        return (self.net(image),)


class _Few(Foreign):
    def forward(self, image):
        return self.net(image)[:, :5]


class _Embeds(Foreign):
    def embed(self, image):
        return self.net(image)


@pytest.mark.parametrize(
    ("module", "data", "words"),
    [
        (Foreign, _Normalised, "outside [0, 1]"),
        (_Tuple, Data, "returned tuple, not logits"),
        (_Few, Data, "the labels go from 0 to 9, but _Few has 5 classes"),
        (_Embeds, Data, "attacks classifiers, and _Embeds returns embeddings"),
    ],
)
def test_what_it_cannot_attack_is_one_sentence(tmp_path, module, data, words):
    with pytest.raises(RectifyError, match=re.escape(words)):
        trainer(tmp_path, report()).validate(module(), data(), verbose=False)


def test_a_run_without_validation_is_told(tmp_path):
    with pytest.raises(RectifyError, match="no validation; give it a validation loader"):
        trainer(tmp_path, report(), limit_val_batches=0).fit(Foreign(), Data())


def test_validation_data_that_are_empty_are_told(tmp_path):
    class Empty(Data):
        def val_dataloader(self):
            return []

    with pytest.raises(RectifyError, match="no validation; give it a validation loader"):
        trainer(tmp_path, report()).fit(Foreign(), Empty(train=32))


REPORT = """trainer:
  callbacks+:
    - class_path: RobustnessReport
      init_args: {{attack: {{class_path: PGD, init_args: {{steps: 2}}}}, samples: 16}}
checkpoint: {{monitor: {monitor}, mode: max}}
"""


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("val/robust_accuracy_pgd2", None),
        ("val/robust_accuracy_pgd20", "Did you mean val/robust_accuracy_pgd2?"),
    ],
)
def test_the_command_line_can_watch_what_the_sanity_check_leaves_out(command, monitor, said):
    (command.folder / "own.yaml").write_text(REPORT.format(monitor=monitor))
    short = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--model.backbone.width", 8)
    ended = command("fit", "-c", "quickstart", "-c", "own.yaml", *short)
    assert ended.code == (2 if said else 0) and (said or "") in ended.error, ended.error
    assert said or (command.folder / "runs/quickstart/checkpoints/best.ckpt").is_file()
