"""Every objective under every strategy against a replay in one process, and what a strategy owes besides.

The table is generated from configs/objective/: a new objective is in it by existing.
"""

import json
from pathlib import Path

import pytest
import torch
from cells import CONFIGS, STRATEGIES, WORLD, cell_names, make_backbone, make_objective, replay
from processes import run_ranks

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses.objective import Objective
from lightning_rectify.strategies import consolidate

REFUSED = {  # what the guard refuses: (cell, strategy); everything else must run
    *(("GradientPenalty", strategy) for strategy in ("fsdp2", "zero3")),
    *(("Perturbed", strategy) for strategy in ("fsdp2", "zero1", "zero2", "zero3")),
    ("AttackedTeacher", "zero3"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def launched(folder):
    """Reports of both ranks by strategy; each strategy is launched once, when first asked for."""
    reports = {}

    def launch(strategy):
        if strategy not in reports:
            (folder / strategy).mkdir()
            script = Path(__file__).with_name("ranks_strategies.py")
            try:
                reports[strategy] = run_ranks(script, strategy, str(folder / strategy), timeout=1200)
            except AssertionError as error:
                reports[strategy] = error  # each of its tests says why, none launches it again
        if isinstance(reports[strategy], AssertionError):
            raise reports[strategy]
        return reports[strategy]

    return launch


@pytest.fixture(scope="module")
def replayed():
    results = {}

    def run(cell):
        if cell not in results:
            results[cell] = replay(*cell)
        return results[cell]

    return run


def is_refused(cell, strategy):
    """By the probes' table above, or, for a later objective, by what it declares."""
    if (cell[0], strategy) in REFUSED:
        return True
    objective = make_objective(cell[0])
    moves = type(objective).after_step is not Objective.after_step
    return (
        (objective.double_backward and strategy in ("fsdp2", "zero3"))
        or (getattr(objective, "whole_weights", False) and strategy == "zero3")
        or (objective.writes_weights and (strategy in ("fsdp2", "zero3") or (moves and strategy.startswith("zero"))))
        or (strategy == "zero3" and objective.frozen_copies > 0 and moves)
    )


TABLE = [(cell, strategy) for strategy in STRATEGIES for cell in cell_names(strategy)]


@pytest.mark.parametrize(
    ("cell", "strategy"), TABLE, ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part))
)
def test_losses_equal_the_replay_in_one_process(cell, strategy, launched, replayed):
    ranks = [report["cells"]["/".join(map(str, cell))] for report in launched(strategy)]
    if isinstance(ranks[0], str):
        assert ranks[0].startswith("refused: "), ranks[0]
        assert ranks == ranks[:1] * WORLD
        assert is_refused(cell, strategy)
        pytest.skip(ranks[0])
    assert not is_refused(cell, strategy)
    # an attack follows signs of gradients: rounding that flips one moves the weights by a step of the attack, so from
    # the second step on only the size of that is asked for (a replay with weights moved by 2e-7 strays as far)
    exact = cell[1] if getattr(make_objective(cell[0]), "attack", None) is not None else None
    for rank, losses in enumerate(replayed(cell)):
        ours, theirs = torch.tensor(ranks[rank]), torch.tensor(losses)
        torch.testing.assert_close(ours[:exact], theirs[:exact], rtol=5e-5, atol=5e-5)
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("accumulate", "clip"), [(2, None), (3, 0.5)])
def test_a_short_window_at_the_end_of_an_epoch_is_a_step(strategy, accumulate, clip, launched):
    """Lightning, the engine and the objective all count ceil(5 / accumulate) steps in each of two epochs."""
    for report in launched(strategy):
        steps = 2 * -(-5 // accumulate)
        assert report["steps"][f"baseline/{accumulate}/{clip}/2"] == [steps, steps, steps]


def test_every_objective_config_is_in_the_table():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} <= {cell[0] for cell in cell_names()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("objective", ["GlobalWeights", "FrozenTeacher"])
def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(strategy, objective, launched):
    for report in launched(strategy):
        losses = report["resume"][objective]
        assert len(losses["whole"]) == 10
        assert losses["epoch.ckpt"] == losses["whole"][5:]
        assert losses["middle.ckpt"] == losses["whole"][7:]


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("case", ["batch_norm", "bf16", "test"])
def test_batch_norm_bf16_and_testing_agree_with_ddp(strategy, case, launched):
    """Batch-norm statistics follow rank 0 (the last value is a validation loss); bf16 differs by its rounding only."""
    for rank in range(WORLD):
        ours, theirs = (torch.tensor(launched(name)[rank][case]) for name in (strategy, "ddp"))
        tolerance = 2e-2 if case == "bf16" else 5e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("objective", ["Proxies", "FrozenTeacher"])
def test_a_vision_transformer_agrees_with_ddp(strategy, objective, launched):
    for rank in range(WORLD):
        ours, theirs = (torch.tensor(launched(name)[rank]["vit"][objective]) for name in (strategy, "ddp"))
        torch.testing.assert_close(ours, theirs, rtol=5e-5, atol=5e-5)


def test_attack_steps_reduce_no_gradient(launched):
    """Two steps of `attacks.PGD`, clean logits and a second forward: as many reduced buckets as in plain training."""
    for report in launched("ddp"):
        counts = report["reductions"]
        assert counts["baseline"] >= 5  # one bucket or more a step
        assert counts["PGDTraining"] == counts["baseline"]


@pytest.mark.parametrize("strategy", STRATEGIES[2:])
def test_offload_changes_no_loss(strategy, launched):
    for report in launched(strategy):
        torch.testing.assert_close(
            torch.tensor(report["offload"]), torch.tensor(report["cells"]["baseline/2/None/2"]), rtol=5e-5, atol=5e-5
        )


@pytest.mark.parametrize("strategy", STRATEGIES[2:])
def test_bf16_leaves_master_weights_exact(strategy, launched, folder):
    launched(strategy)
    out = consolidate(folder / strategy / "bf16.ckpt", folder / f"{strategy}.safetensors")
    from safetensors.torch import load_file

    weights = load_file(out)
    for name, parameter in make_backbone().named_parameters():
        assert torch.equal(weights[f"backbone.{name}"], parameter), name


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_one_plain_file_holds_the_weights_of_ddp(strategy, launched, folder):
    launched("ddp"), launched(strategy)
    saved = folder / strategy / "middle.ckpt"
    if strategy != "fsdp2":
        saved = consolidate(saved, folder / f"{strategy}.ckpt")
    ours = torch.load(saved, weights_only=True)
    theirs = torch.load(folder / "ddp" / "middle.ckpt", weights_only=True)
    assert ours["global_step"] == theirs["global_step"] == 7
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, tensor in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_says_whose_run_it_is_without_unpickling(strategy, launched, folder):
    launched(strategy)
    saved = folder / strategy / "middle.ckpt"
    if strategy.startswith("zero"):
        assert json.loads((saved / "rectify.json").read_text()) == {"fingerprint": "mine", "step": 7}
    else:
        assert torch.load(saved, weights_only=True)["callbacks"]["Preemption"]["fingerprint"] == "mine"


def test_a_changed_or_foreign_folder_is_never_unpickled(launched, folder):
    for report in launched("zero2"):
        assert report["foreign"].startswith("refused: checkpoint") and "has no seal" in report["foreign"]
    saved = folder / "zero2" / "middle.ckpt"
    victim = next(saved.rglob("*model_states.pt"))
    whole = victim.read_bytes()
    victim.write_bytes(whole + b"x")
    try:
        with pytest.raises(RectifyError, match="was added, removed or changed after saving"):
            consolidate(saved, folder / "no.ckpt")
    finally:
        victim.write_bytes(whole)
    with pytest.raises(RectifyError, match=r"must end in .ckpt or .safetensors"):
        consolidate(saved, folder / "no.bin")
    with pytest.raises(RectifyError, match="is no folder"):
        consolidate(folder / "nowhere", folder / "no.ckpt")
    assert not (folder / "no.ckpt").exists()
