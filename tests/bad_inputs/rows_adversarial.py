"""Mistakes in adversarial training; those that a config cannot express are in tests/attacks and tests/losses."""

from table import FIT, Row, write

AT = (*FIT, "-c", "objective/pgd_at")
ATTACK = "--model.objective.attack"
WEIGHTING = "--model.objective.weighting"

ROWS = [
    Row("eps in grey levels", (*AT, f"{ATTACK}.eps", 8), ("eps is 8", "8/255")),
    Row("eps below 0", (*AT, f"{ATTACK}.eps=-0.1"), ("eps is -0.1", "8/255")),
    Row("eps no fraction", (*AT, f"{ATTACK}.eps", "8/0"), ("eps", "8/0", "8/255")),
    Row("eps a word", (*AT, f"{ATTACK}.eps", "small"), ("eps", "small")),
    Row("step of nothing", (*AT, f"{ATTACK}.step_size", 0), ("step_size is 0", "eps/4")),
    Row("step in grey levels", (*AT, f"{ATTACK}.step_size", 2), ("step_size is 2", "eps 8/255", "eps/4")),
    Row("divergence from the image itself", (*FIT, "-c", "objective/trades", f"{ATTACK}.start", "none"),
        ("PGD starts at the image", "start normal")),
    Row("no step", (*AT, f"{ATTACK}.steps", 0), ("steps is 0", "at least 1")),
    Row("unknown norm", (*AT, f"{ATTACK}.norm", "l1"), ("norm", "l1", "l2")),
    Row("restarts from one place", (*AT, f"{ATTACK}.restarts", 3, f"{ATTACK}.start", "none"),
        ("restarts is 3", "none")),
    Row("unknown attack", (*AT, ATTACK, "PDG"), ("attack", "Did you mean PGD?")),
    Row("beta of nothing", (*FIT, "-c", "objective/trades", "--model.objective.surrogate.beta", 0), ("beta is 0",)),
    Row("TRADES without an attack", (*FIT, "--model.objective", "AdversarialTraining", "--model.objective.surrogate",
        "Trades"), ("Trades", "give attack")),
    Row("temperature 0", (*AT, WEIGHTING, "KLDROWeights", f"{WEIGHTING}.temperature", 0),
        ("temperature is 0", "above 0")),
    Row("temperature below 0", (*AT, WEIGHTING, "KLDROWeights", f"{WEIGHTING}.temperature=-1"), ("temperature is -1",)),
    Row("prior of another set", (*AT, WEIGHTING, "KLDROWeights", f"{WEIGHTING}.prior", "[0.5, 0.5]"),
        ("prior has 2 entries", "10 classes")),
    Row("prior of more than 1", (*AT, WEIGHTING, "KLDROWeights", f"{WEIGHTING}.prior", "[0.5, 0.6]"),
        ("prior sums to 1.1", "sum to 1")),
    Row("class counts of another set", (*AT, WEIGHTING, "ClassBalancedWeights", f"{WEIGHTING}.counts", "[5, 5]"),
        ("counts has 2 entries", "10 classes")),
    Row("steps of an attack of one", (*FIT, "-c", "objective/nfgsm", WEIGHTING, "GeometryWeights"),
        ("GeometryWeights", "NFGSM takes 1", "PGD")),
    Row("implicit without a barrier", (*AT, "--model.objective.implicit", "true"), ("implicit", "LogBarrier")),
    Row("one label of a mixture", (*FIT, "-c", "objective/mart", "--model.objective.mixing", "Mixup"),
        ("Mart needs one label", "Mixup")),
    Row("mixing inside the network", (*AT, "-c", "a.yaml"), ("ManifoldMixup", "mixing of the input"),
        write("a.yaml", "model: {objective: {init_args: {mixing: {class_path: ManifoldMixup, init_args: "
              "{layers: [layer1]}}}}}\n")),
    Row("weights moved where they are split", (*FIT, "-c", "objective/awp_trades", "-c", "trainer/fsdp2",
        "--trainer.accelerator", "cpu", "--trainer.devices", 1), ("AdversarialTraining", "use ddp")),
]  # fmt: skip
