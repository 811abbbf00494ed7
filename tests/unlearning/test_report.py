"""The report of hand-made models: definitions, identities, verdicts, and what it refuses."""

import json
import math

import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.metrics import NegativeLogLikelihood, TopLabelCalibrationError
from lightning_rectify.unlearning import (
    average_gap,
    membership_attacks,
    proxy_gap,
    report_lines,
    unlearning_report,
)


def split(hits, seed, classes=4, sure=4.0):
    """A split whose hits are given as a list of bool; the k-th sample has label k mod classes and index 10·k."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(len(hits)) % classes
    logits = torch.rand(len(hits), classes, generator=draw)
    answer = torch.where(torch.tensor(hits), label, (label + 1) % classes)
    logits[torch.arange(len(hits)), answer] += sure * torch.rand(len(hits), generator=draw) + 1
    return {"logits": logits, "label": label, "index": torch.arange(len(hits)) * 10}


def share(right, count):
    return [k < right for k in range(count)]


def model(forget, retain=390, test=170, val=85, seed=0):
    return {
        "forget": split(share(forget, 100), seed),
        "retain": split(share(retain, 400), seed + 1, sure=8.0),
        "test": split(share(test, 200), seed + 2),
        "val": split(share(val, 100), seed + 3),
    }


def test_scores_are_those_of_the_literature():
    now, then = model(80), model(99, seed=5)
    report = unlearning_report(then, now)
    assert [report[key] for key in ("UA", "RA", "TA", "VA")] == pytest.approx([20, 97.5, 85, 85])
    assert report["original"]["UA"] == pytest.approx(1)
    attacks = membership_attacks(now["forget"], now["retain"], now["test"])
    assert {key: report[key] for key in attacks} == attacks
    assert report["samples"] == {"forget": 100, "retain": 400, "test": 200, "val": 100}


def test_retrained_against_itself_has_no_gap():
    retrained = model(85, seed=5)
    report = unlearning_report(model(99), retrained, retrained)
    assert (report["AvgGap"], report["ToW"]) == (0, 1)
    assert set(report["gap"].values()) == {0}
    assert report["forgetting"] == "within spread"


def test_gaps_over_several_retrained_models_are_the_mean_of_the_single_ones():
    now, references = model(90), [model(80 + 2 * k, seed=10 * k) for k in range(3)]
    report = unlearning_report(model(99), now, references)
    single = [unlearning_report(model(99), now, one)["AvgGap"] for one in references]
    assert report["AvgGap"] == pytest.approx(sum(single) / 3)
    assert report["AvgGap_interval"]["mean"] == report["AvgGap"]
    # 20, 18, 16: standard deviation 2, Student's 4.3027 with two degrees of freedom
    assert report["retrained"]["UA"]["mean"] == pytest.approx(18)
    assert report["retrained"]["UA"]["half_interval"] == pytest.approx(4.302653 * 2 / math.sqrt(3))
    assert report["spread"]["UA"] == pytest.approx(4.302653 * 2 * math.sqrt(4 / 3))
    assert report["gap"]["UA"] == pytest.approx(-8)


def test_a_whole_class_leaves_the_test_set():
    """Class 0 is forgotten: TA is that of the other classes, and the test samples of class 0 stand apart."""
    every = model(99)

    def without(part, keep):
        rows = (part["label"] == 0) != keep
        return {name: value[rows] for name, value in part.items()}

    def request(outputs):
        forget, retain = (without(outputs["retain"], keep) for keep in (False, True))
        return {**outputs, "forget": forget, "retain": retain}

    report = unlearning_report(request(every), request(model(99, test=101)))
    assert report["forgotten_classes"] == [0]
    # of 200 test samples the first 101 are right: 26 of class 0's 50, 75 of the 150 others
    assert report["TA"] == pytest.approx(50)
    assert report["UA_test"] == pytest.approx(100 * 24 / 50)
    assert report["samples"]["test"] == 200


def test_verdicts():
    references = [model(84 + k, seed=10 * k) for k in range(3)]
    assert unlearning_report(model(99), model(85, seed=3), references)["forgetting"] == "within spread"
    under = unlearning_report(model(99), model(100, seed=3), references)
    assert under["forgetting"] == "under-forgot" and under["verdict"].startswith("Under-forgot")
    over = unlearning_report(model(99), model(20, seed=3), references)
    assert over["forgetting"] == "over-forgot" and over["verdict"].startswith("Over-forgot")
    dear = unlearning_report(model(99), model(85, seed=3, retain=200), references)
    assert "It costs accuracy (RA 50.00 against 97.50" in dear["verdict"]


def test_one_retrained_model_gives_the_noise_of_samples_and_says_so():
    """90 of 100 against 80 of 100, the first 80 right in both: 10 discordant samples, all one way."""
    report = unlearning_report(model(99), model(90), model(80, seed=7))
    assert report["spread"]["UA"] == pytest.approx(100 * 1.96 * math.sqrt(10 - 10**2 / 100) / 100)
    assert "spread between training seeds is not known" in report["verdict"]
    assert "AvgGap_interval" not in report and report["retrained"]["UA"]["half_interval"] is None


def test_without_a_retrained_model_nothing_is_claimed():
    report = unlearning_report(model(99), model(85))
    assert (report["AvgGap"], report["ToW"], report["gap"], report["forgetting"]) == (None, None, None, "unknown")
    assert "cannot be said" in report["verdict"]
    assert "Avg. Gap 0" not in report_lines(report)


def test_calibration_is_that_of_the_metrics():
    now, then = model(85), model(99, seed=5)
    report = unlearning_report(then, now)
    for name, part in now.items():
        ece, nll = TopLabelCalibrationError(), NegativeLogLikelihood()
        for metric in (ece, nll):
            metric.update(part["logits"], part["label"])
        found = report["calibration"]["unlearned"][name]
        assert found["ece"] == pytest.approx(100 * float(ece.compute()), rel=1e-5)
        assert found["nll"] == pytest.approx(float(nll.compute()), rel=1e-5)
        shift = found["nll"] - report["calibration"]["original"][name]["nll"]
        assert report["calibration_shift"][name]["nll"] == pytest.approx(shift)


def test_the_order_in_which_ranks_were_gathered_does_not_matter():
    """Two processes bring the samples in another order; the report must be that of one process, to the bit."""

    def gathered(outputs, seed):
        order = {
            name: torch.randperm(len(part["label"]), generator=torch.Generator().manual_seed(seed))
            for name, part in outputs.items()
        }
        return {name: {key: value[order[name]] for key, value in part.items()} for name, part in outputs.items()}

    models = [model(99), model(88, seed=4), model(84, seed=9)]
    one = unlearning_report(*models)
    two = unlearning_report(*(gathered(outputs, seed) for seed, outputs in enumerate(models)))
    del one["calibration"], two["calibration"], one["calibration_shift"], two["calibration_shift"]  # sums of floats
    assert one == two


def test_json_and_text_hold_what_was_given():
    curve = {"unlearned": {"steps": [0, 5], "accuracy": [10.0, 50.0], "area": 30.0}}
    cost = {"seconds": 3.25, "forget_gradients": 900, "retain_gradients": 8100}
    references = [model(84, seed=5), model(86, seed=6)]
    report = unlearning_report(
        model(99),
        model(90),
        references,
        cost=cost,
        off_mask_drift=0.0,
        sections={"relearning": curve, "saliency": {"unlearned": 0.25}},
    )
    read = json.loads(json.dumps(report, allow_nan=False))
    assert read["RTE"] == cost and read["off_mask_drift"] == 0 and read["relearning"] == curve
    text = report_lines(report)
    assert "3.25 seconds, 900 forget gradients, 8,100 retain gradients" in text
    assert "off the mask: 0" in text
    assert "forget accuracy in 5 steps: unlearned 10.0 to 50.0" in text
    assert "rank correlation with the original's: unlearned 0.250" in text
    row = next(line for line in text.splitlines() if line.startswith("UA"))
    assert row.split() == ["UA", "1.00", "10.00", "15.00", "±", "12.71", "-5.00"]
    assert max(map(len, text.splitlines())) <= 100


def test_proxy_gap_is_zero_for_one_that_treats_forget_as_validation_samples():
    then = model(99, val=85)
    ideal = {**then, "forget": {**then["val"], "index": then["val"]["index"] + 1}}
    expected = {**then, "forget": ideal["forget"]}
    del expected["test"]
    before = {**then, "forget": {**then["forget"], "label": then["val"]["label"], "index": then["val"]["index"] + 1}}
    assert proxy_gap(before, expected) == 0
    assert proxy_gap(before, before) > 3
    unseen = {"UA": 15, "RA": 97.5, "TA": 85, "MIA_confidence": 0}
    assert average_gap({**unseen, "UA": 1}, unseen) == 3.5


def picked(source, classes, start, count, wrong=()):
    """`count` samples of some classes out of a split, with new indices; those of classes in `wrong` are mistaken."""
    rows = torch.isin(source["label"], torch.tensor(classes)).nonzero().squeeze(1)[:count]
    logits, label = source["logits"][rows].clone(), source["label"][rows]
    for row in torch.isin(label, torch.tensor(wrong, dtype=label.dtype)).nonzero().squeeze(1):
        logits[row, (label[row] + 1) % logits.shape[1]] = 1000.0
    return {"logits": logits, "label": label, "index": torch.arange(start, start + count)}


def test_proxy_gap_of_a_class_and_a_part_of_the_others():
    """A class of 20 samples and 60 of the others: a quarter at 100, three quarters as on validation samples."""
    source, keep = model(100, val=90), [0, 1, 2]
    then = {"retain": picked(source["retain"], keep, 0, 250), "val": {**source["val"]}}
    # 10 of 100 validation samples are wrong, the last ones: of the 75 in the classes that stay 7 or 8
    staying = source["val"]["label"] != 3
    wrong = (source["val"]["logits"].argmax(1) != source["val"]["label"])[staying]
    unseen = picked(source["val"], keep, 1000, 75)
    gone = picked(source["forget"], [3], 2000, 25)
    original = {**then, "forget": {key: torch.cat((unseen[key], gone[key])) for key in gone}}
    forgot = picked(source["forget"], [3], 2000, 25, wrong=[3])
    ideal = {**then, "forget": {key: torch.cat((unseen[key], forgot[key])) for key in gone}}
    found = {"UA": 25 + 0.75 * 100 * float(wrong.double().mean())}
    assert 100 * float((ideal["forget"]["logits"].argmax(1) != ideal["forget"]["label"]).double().mean()) == (
        pytest.approx(found["UA"])
    )
    assert proxy_gap(original, ideal) == pytest.approx(0, abs=1e-9)
    assert proxy_gap(original, original) > 6  # 25 points of UA and as many of MIA, over four figures


def test_proxy_gap_needs_validation_samples_that_can_be_judged():
    whole = model(99)
    with pytest.raises(RectifyError, match="split val is missing"):
        proxy_gap({name: split for name, split in whole.items() if name != "val"}, whole)
    source = model(99)
    kept = {**source, "retain": picked(source["retain"], [0, 1, 2], 0, 250), "val": picked(source["val"], [3], 0, 20)}
    with pytest.raises(RectifyError, match=r"forgotten classes \[3\] alone"):
        proxy_gap(kept, kept)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("test"), "the split test is missing"),
        (lambda m: m["forget"].update(label=m["forget"]["label"][:3]), "are needed"),
        (lambda m: m["forget"].update(label=m["forget"]["label"] + 1), "outside 0 … 3"),
        (lambda m: m["forget"].update(index=torch.zeros(100, dtype=torch.int64)), "holds a sample twice"),
        (lambda m: m["retain"].update(index=m["retain"]["index"] + 1), "not of the samples"),
        (lambda m: m.update(retain={name: value[:0] for name, value in m["retain"].items()}), "n > 0"),
    ],
)
def test_bad_outputs_are_refused(change, words):
    bad = model(99)
    change(bad)
    with pytest.raises(RectifyError, match=f"retrained 0: .*{words}"):
        unlearning_report(model(99), model(90), bad)


def test_rmia_with_retrained_references_is_brute_force():
    now, references = model(90), [model(84, seed=5), model(86, seed=6)]
    found = unlearning_report(model(99), now, references)["RMIA_AUC"]

    def ratio(name, target, others):
        def p(outputs):
            part = outputs[name]
            return part["logits"].double().softmax(1)[torch.arange(len(part["label"])), part["label"]]

        mean = torch.stack([p(one) for one in others]).mean(0)
        return (p(target) / (0.65 * mean + 0.35)).tolist()

    def auc(target, others):
        population = ratio("val", target, others)
        member, other = (
            [sum(x >= z for z in population) for x in ratio(name, target, others)] for name in ("forget", "test")
        )
        return sum((m > o) + 0.5 * (m == o) for m in member for o in other) / len(member) / len(other)

    assert found["unlearned"] == pytest.approx(100 * auc(now, references))
    assert found["retrained"] == pytest.approx(100 * auc(references[0], references[1:]))
    assert "RMIA_AUC" not in unlearning_report(model(99), now)
