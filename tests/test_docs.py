"""Every YAML snippet of README and docs runs, and what they name exists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rectify.names import ROOMS, public_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
QUICK = ("--trainer.fast_dev_run", 1, *QUIET)


def blocks(language):
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)):
            yield pytest.param(text, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("snippet", blocks("yaml"))
def test_yaml_snippet_runs(command, snippet):
    config = command.folder / "snippet.yaml"
    config.write_text(snippet)
    keys = yaml.safe_load(snippet)
    # a snippet about data that are not on this machine, or about many devices, is only composed
    only_compose = "data" in keys or "strategy" in keys.get("trainer", {})
    ended = command("fit", "-c", "data/digits", "-c", config, *(("--print_config",) if only_compose else QUICK))
    assert ended.code == 0, ended.error


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_snippet_compiles_and_imports(snippet):
    compile(snippet, "snippet", "exec")
    for line in snippet.splitlines():
        if "lightning_rectify" in line:
            exec(line.strip(), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for file in re.findall(r"`((?:configs|benchmarks|tests|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / file).exists(), file


def test_log_keys_are_those_of_a_run(command):
    """The table of public keys against what the quickstart logs."""
    table = re.findall(r"^\| `([\w/]+)` \|", (ROOT / "docs" / "log_keys.md").read_text(), re.M)
    assert command("fit", "-c", "quickstart", "--trainer.max_epochs", 1, "--final_test", "false").code == 0
    header = next((command.folder / "runs").glob("quickstart/csv/*/metrics.csv")).read_text().splitlines()[0]
    logged = set(header.split(",")) - {"epoch", "step"}
    assert set(table) <= logged
    terms = {key for key in logged - set(table) if not key.startswith("train/")}
    assert terms == set(), "keys that the table lacks"


def test_pages_name_only_classes_that_exist():
    known = {name for room in ROOMS for name in public_names(room)}
    for page in PAGES:
        for name in re.findall(r"class_path: (\w+)\b(?!\.)", page.read_text()):
            assert name in known or name in {"AdamW", "SGD", "Timer", "EarlyStopping"}, f"{page.name}: {name}"


def test_benchmark_tables_are_those_of_the_results():
    script = ROOT / "benchmarks" / "tables.py"
    assert subprocess.run([sys.executable, script, "--check"]).returncode == 0, "run benchmarks/tables.py"


def test_readme_table_is_that_of_the_results():
    results = json.loads((ROOT / "benchmarks" / "results" / "digits.json").read_text())["objectives"]
    text = PAGES[0].read_text()
    for name, scores in results.items():
        accuracy = scores["accuracy"]
        assert f"| {name} | {100 * accuracy['mean']:.2f} ± {100 * accuracy['half_interval']:.2f} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_placeholder_is_left(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)
    assert not re.search(r"\b(TODO|TBD|FIXME|[A-Z]{3,}_[A-Z]{3,})\b", prose)
