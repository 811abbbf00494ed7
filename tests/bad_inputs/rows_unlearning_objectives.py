"""Mistakes in unlearning objectives and edits; others are in tests/losses and tests/unlearning."""

from table import FIT, Row

FORGET = (*FIT, "--data.forget", "class:3")
OBJECTIVE = "--model.objective"

ROWS = [
    Row("unlearning objective without a request", (*FIT, "-c", "objective/random_label"),
        ("RandomLabel", "data.forget", "class:3")),
    Row("unknown label policy", (*FORGET, "-c", "objective/random_label", f"{OBJECTIVE}.labels", "step"),
        ("labels", "step", "epoch")),
    Row("alpha above 1", (*FORGET, "-c", "objective/neg_grad_plus", f"{OBJECTIVE}.alpha", 1.5),
        ("alpha is 1.5", "[0, 1]")),
    Row("schedule without both parts", (*FORGET, "-c", "objective/neg_grad_plus", "--data.schedule",
        "forget_then_retain"), ("forget_then_retain", "NegGradPlus", "paired or mixed")),
    Row("epochs of nothing", (*FORGET, "-c", "objective/scrub", f"{OBJECTIVE}.msteps", 0), ("msteps is 0",)),
    Row("weights moved after the step where they are split", (*FORGET, "-c", "objective/saliency_soft", "-c",
        "trainer/fsdp2", "--trainer.accelerator", "cpu", "--trainer.devices", 1), ("SaliencySoft", "use ddp")),
]  # fmt: skip
