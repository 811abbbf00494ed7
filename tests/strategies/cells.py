"""The cells of the objective x strategy table: what is trained, on what, and the one-process replay of two ranks."""

import math
import threading
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from jsonargparse import ArgumentParser
from probes import PROBES

from lightning_rectify.backbones import ResNet
from lightning_rectify.losses import EmpiricalRisk
from lightning_rectify.losses.objective import Context, Objective, tell_class_counts
from lightning_rectify.names import import_rooms, public_names

CONFIGS = Path(__file__).parents[2] / "configs" / "objective"
STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
UNLEARNING_STRATEGIES = ("ddp", "fsdp2", "zero2")  # the other two would only add minutes
STEPS, BATCH, WORLD, LR = 5, 4, 2, 0.05
CLIP = 0.5
SETTINGS = (
    *((accumulate, clip, 1) for accumulate in (1, 2) for clip in (None, CLIP)),
    (2, None, 2),  # two epochs of an odd number of batches: each ends in a short window
    (3, CLIP, 2),
)
VARIED = ("baseline", "AttackedTeacher", "fmix")  # these also run with accumulation and clipping


def objective_names():
    return ["baseline", *PROBES, *sorted(path.stem for path in CONFIGS.glob("*.yaml"))]


CLASSES = 4


def make_objective(name):
    """Instantiate the objective of a YAML, freshly: state is not shared between cells."""
    if name == "baseline":
        return EmpiricalRisk()
    if name in PROBES:
        return PROBES[name]()
    import_rooms()  # short class names resolve among what is imported
    text = (CONFIGS / f"{name}.yaml").read_text().replace("${data.classes}", str(CLASSES))
    entry = yaml.safe_load(text)["model"]["objective"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective", required=True)
    objective = parser.instantiate_classes(parser.parse_object({"objective": entry})).objective
    tell_class_counts(objective, [9, 5, 3, 2])  # as a data module would
    return objective


def make_backbone(norm="group"):
    torch.manual_seed(0)
    return ResNet(classes=CLASSES, channels=3, depth=8, width=8, norm=norm)


def make_batch(objective, rank, step):
    """A batch of learnable noise, in the form the objective asks for; equal for equal (rank, step).

    An unlearning objective gets the batches of the schedule it names first; a mixed one forgets one more on rank 1.
    """
    generator = torch.Generator().manual_seed(1000 * rank + step)

    def part():
        label = torch.randint(4, (BATCH,), generator=generator)
        shape = (BATCH, 3, 8, 8) if objective.views == 1 else (BATCH, objective.views, 3, 8, 8)
        image = torch.rand(shape, generator=generator)
        index = torch.arange(BATCH) + BATCH * (rank + WORLD * step)
        return {"image": image, "label": label, "index": index}

    schedule = objective.schedules[0] if objective.needs_retain else "retain"
    if schedule == "retain":
        return part()
    if schedule == "mixed":
        return {**part(), "forget": torch.arange(BATCH) <= rank}
    passes = {"paired": ("forget", "retain"), "forget": ("forget",)}
    kept = passes.get(schedule, (("forget", "retain")[step % 2],))
    return {name: part() if name in kept else None for name in ("forget", "retain")}


def unlearns(name):
    """Whether a config names an objective of losses/unlearning/; read from its text, without importing anything."""
    path = CONFIGS / f"{name}.yaml"
    entry = yaml.safe_load(path.read_text())["model"]["objective"] if path.exists() else {}
    return ".unlearning." in public_names("losses").get(entry.get("class_path"), "")


def cell_names(strategy=None):
    """(objective, accumulate, clip, epochs) of every cell of a strategy, or of any."""
    left_out = strategy is not None and strategy not in UNLEARNING_STRATEGIES
    cells = [(name, *SETTINGS[0]) for name in objective_names() if not (left_out and unlearns(name))]
    varied = [name for name in VARIED if name in objective_names()]
    return cells + [(name, *setting) for name in varied for setting in SETTINGS[1:]]


def batches_of(accumulate, epochs):
    """Batches of an epoch: whole windows in a single one, else five, whatever the window."""
    return STEPS * accumulate if epochs == 1 else STEPS


def replay(name, accumulate=1, clip=None, epochs=1, norm="group"):
    """Train as two ranks would, in one process, without DDP, Lightning or a real process group: two threads.

    The collectives inside an objective meet in a threaded process group; gradients are summed here, by hand.
    """
    from torch._C import _distributed_c10d
    from torch.testing._internal.distributed.multi_threaded_pg import _install_threaded_pg, _uninstall_threaded_pg

    nets = []
    for _ in range(WORLD):  # built here: the global seed is not per thread
        backbone, objective = make_backbone(norm), make_objective(name)
        objective.setup(backbone)
        nets.append((backbone.train(), objective.train()))
    results, errors, store = [None] * WORLD, [], dist.HashStore()

    def run(rank):
        try:
            dist.init_process_group("threaded", rank=rank, world_size=WORLD, store=store)
            results[rank] = _replay_rank(rank, accumulate, clip, epochs, *nets[rank])
            dist.destroy_process_group()
        except BaseException as error:  # raised in the main thread
            errors.append(error)

    world = _install_threaded_pg()
    _distributed_c10d._set_thread_isolation_mode(True)
    try:
        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(WORLD)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            if errors or thread.is_alive():
                raise errors[0] if errors else TimeoutError(f"the replay of {name} hangs")
    finally:
        _distributed_c10d._set_thread_isolation_mode(False)
        _uninstall_threaded_pg()
        del world
    return results


def _replay_rank(rank, accumulate, clip, epochs, backbone, objective):
    batches = batches_of(accumulate, epochs)
    windows = [
        (epoch, range(first, min(first + accumulate, batches)))
        for epoch in range(epochs)
        for first in range(0, batches, accumulate)
    ]
    weights = [p for p in (*backbone.parameters(), *objective.parameters()) if p.requires_grad]
    losses = []
    for step, (epoch, window) in enumerate(windows):
        for batch_idx in window:
            context = Context(step, step / len(windows), (0, rank, epoch, batch_idx))
            out = objective(backbone, make_batch(objective, rank, batch_idx), context)
            losses.append(out.loss.detach().item())
            (out.loss / accumulate).backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in weights]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= WORLD
        if clip is not None:
            flat *= (clip / (flat.norm() + 1e-6)).clamp(max=1)
        lr = LR * (1 + math.cos(math.pi * step / len(windows))) / 2 if epochs > 1 else LR
        with torch.no_grad():
            for p, g in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
                p -= lr * g.view_as(p)
                p.grad = None
        objective.after_step(backbone)
    return losses


class Batches(torch.utils.data.Dataset):
    """Ready-made batches of one rank, for a loader without batching."""

    def __init__(self, objective, rank, length):
        self.batches = [make_batch(objective, rank, step) for step in range(length)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]
