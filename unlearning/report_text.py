"""The report as text, for people at a terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 100


def report_lines(report: Mapping[str, Any]) -> str:
    """Return the table and the verdict of an `unlearning_report`, plain text of at most 100 columns."""
    scores = [key for key in report["original"] if key in report]
    retrained, gap = report["retrained"], report["gap"]
    head = f"{'per cent':<22}{'original':>10}{'unlearned':>11}"
    lines = [head + (f"{'retrained':>18}{'gap':>9}" if retrained else "")]
    for key in scores:
        line = f"{key:<22}{report['original'][key]:>10.2f}{report[key]:>11.2f}"
        if retrained:
            half = retrained[key]["half_interval"]
            reference = f"{retrained[key]['mean']:.2f}" + (f" ± {half:.2f}" if half is not None else "")
            line += f"{reference:>18}{gap[key]:>+9.2f}"
        lines.append(line)
    lines.append("")
    if retrained:
        interval = report.get("AvgGap_interval")
        more = f" ± {interval['half_interval']:.2f}" if interval else ""
        lines.append(f"Avg. Gap {report['AvgGap']:.2f}{more} (0 is best)   ToW {report['ToW']:.4f} (1 is best)")
    for title, key in (("unlearning", "RTE"), ("retraining", "retrained_RTE")):
        if report.get(key):
            lines.append(
                f"{title}: " + ", ".join(f"{value:,.6g} {_words(name)}" for name, value in report[key].items())
            )
    if report["off_mask_drift"] is not None:
        lines.append(f"largest change of a weight off the mask: {report['off_mask_drift']:g}")
    shift = report["calibration_shift"]
    for name in ("forget", "retain", "test"):
        values = shift.get(name)
        if values:
            ece, nll = values["ece"], values["nll"]
            lines.append(f"calibration on {name}: ECE {ece:+.2f} points, NLL {nll:+.4f} against the original")
    lines += _further(report)
    lines += ["", *textwrap.wrap(report["verdict"], WIDTH)]
    return "\n".join(lines)


def _further(report: Mapping[str, Any]) -> list[str]:
    """A line for each further finding that is there."""
    lines = []
    attack = report.get("RMIA_AUC")
    if attack:
        of = ", ".join(f"{name} {value:.1f}" for name, value in attack.items())
        lines.append(f"RMIA, AUC of forget against test (50 is a guess): {of}")
    curves = report.get("relearning")
    if curves:
        ends = [f"{name} {c['accuracy'][0]:.1f} to {c['accuracy'][-1]:.1f}" for name, c in curves.items()]
        steps = next(iter(curves.values()))["steps"][-1]
        lines.append(f"relearning, forget accuracy in {steps} steps: {', '.join(ends)}")
    shift = report.get("saliency")
    if shift:
        of = ", ".join(f"{name} {value:.3f}" for name, value in shift.items())
        lines.append(f"saliency on forget, rank correlation with the original's: {of}")
    for key, title in (("ZRF", "ZRF on forget (1 knows nothing)"), ("probe", "linear probe, accuracy on the classes")):
        if values := report.get(key):
            digits = 3 if key == "ZRF" else 1
            lines.append(f"{title}: " + ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items()))
    return lines


def _words(name: str) -> str:
    return name.replace("_", " ")
