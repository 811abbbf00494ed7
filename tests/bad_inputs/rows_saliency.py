"""Mistakes with saliency maps; those of the functions are in tests/attribution, of the callback in tests/callbacks."""

from table import FIT, Row, write

ADD = (*FIT, "-c", "a.yaml")


def saliency(**options):
    """A file that adds the callback."""
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    return write(
        "a.yaml",
        f"trainer: {{callbacks: [{{class_path: SaliencyMaps, init_args: {{{written}}}}}]}}\n",
    )


EXPLAIN = ("explain", *FIT[1:], "--ckpt_path", "base.ckpt", "--images", 4, "--samples", 2)


def _shards_of_weights(folder):
    (folder / "zero.ckpt" / "checkpoint").mkdir(parents=True)
    (folder / "zero.ckpt" / "latest").write_text("checkpoint")


ROWS = [
    Row("unknown method to explain", (*EXPLAIN, "--methods", "[gradcam]"), ("methods has no 'gradcam'", "grad_cam")),
    Row("unknown layer to explain", (*EXPLAIN, "--layer", "layer9"), ("no layer 'layer9'", "Did you mean")),
    Row("no image to explain", (*EXPLAIN[:-1], 0), ("samples must be at least 1, got 0",)),
    Row("untrained to explain", EXPLAIN[: len(FIT)], ("explain", "untrained", "--ckpt_path")),
    Row("another architecture to explain", (*EXPLAIN, "--model.backbone.width", 16),
        ("--ckpt_path base.ckpt", "another architecture", "model.backbone")),
    Row("shards of weights to explain", (*EXPLAIN[: len(FIT)], "--ckpt_path", "zero.ckpt"),
        ("zero.ckpt is a folder of shards", "strategies.consolidate"), _shards_of_weights),
    Row("explain in two processes", (*EXPLAIN, "--trainer.devices", 2, "--trainer.strategy", "ddp"),
        ("explain runs in one process", "trainer.devices asks for 2, set 1")),
    Row("unknown saliency method", ADD, ("methods has no 'gradcam'", "Did you mean grad_cam"),
        saliency(methods="[gradcam]")),
    Row("unknown layer of saliency", ADD, ("has no layer 'layer9'", "Did you mean"), saliency(layer="layer9")),
    Row("moved weights where they are split", (*ADD, "-c", "trainer/fsdp2", "--trainer.accelerator", "cpu",
        "--trainer.devices", 1), ("meta_norm_grad", "take it out of methods, or use ddp"),
        saliency(methods="[meta_norm_grad]")),
]  # fmt: skip
