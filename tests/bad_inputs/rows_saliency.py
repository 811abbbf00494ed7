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


ROWS = [
    Row("unknown saliency method", ADD, ("methods has no 'gradcam'", "Did you mean grad_cam"),
        saliency(methods="[gradcam]")),
    Row("unknown layer of saliency", ADD, ("has no layer 'layer9'", "Did you mean"), saliency(layer="layer9")),
    Row("moved weights where they are split", (*ADD, "-c", "trainer/fsdp2", "--trainer.accelerator", "cpu",
        "--trainer.devices", 1), ("meta_norm_grad", "take it out of methods, or use ddp"),
        saliency(methods="[meta_norm_grad]")),
]  # fmt: skip
