"""The table at the end of a run."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

TITLES = {
    "accuracy": "accuracy",
    "ece_top_label_l1": "ECE (top label, L1)",
    "ece_class_wise_l1": "ECE (class-wise, L1)",
    "signed_gap": "confidence - accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "loss": "loss",
    "recall_at_1": "Recall@1",
    "recall_at_2": "Recall@2",
    "recall_at_4": "Recall@4",
    "recall_at_8": "Recall@8",
    "map_at_r": "mAP@R",
    "r_precision": "R-precision",
    "opis": "OPIS",
    "epsilon_opis": "epsilon-OPIS",
    "eer": "EER",
}


def print_results(results: dict[str, float], checkpoint: str | Path | None) -> None:
    """Print evaluation results, the known ones first and in the order of TITLES."""
    stage = next(iter(results)).split("/")[0]
    named = {key.removeprefix(f"{stage}/"): float(value) for key, value in results.items()}
    table = Table(title=f"{stage}: {Path(checkpoint).name}" if checkpoint else stage, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name in [*filter(named.__contains__, TITLES), *sorted(named.keys() - TITLES.keys())]:
        value = named[name]
        text = (
            f"{value:.2%}" if name.endswith("accuracy") else f"{value:+.4f}" if name == "signed_gap" else f"{value:.4f}"
        )
        table.add_row(TITLES.get(name, name), text)
    Console().print(table)
