"""The key `module`: where it is read, what it may name, and that all else stays as it was."""

import pytest
import yaml

from lightning_rectify.commands.module_choice import choose_module
from lightning_rectify.errors import RectifyError
from lightning_rectify.lightning_modules import Classifier, Retriever


def test_the_last_one_wins_and_the_default_is_a_classifier(tmp_path):
    retriever, plain = tmp_path / "a.yaml", tmp_path / "b.yaml"
    retriever.write_text("module: Retriever\n")
    plain.write_text("name: plain\n")
    for arguments, wanted in (
        (["fit"], Classifier),
        (["fit", "-c", plain], Classifier),
        (["fit", "-c", retriever, "-c", plain], Retriever),
        (["fit", f"--config={retriever}"], Retriever),
        (["fit", "-c", retriever, "--module", "Classifier"], Classifier),
        (["fit", "--module=Retriever"], Retriever),
        (["fit", "--module", "lightning_rectify.lightning_modules.Retriever"], Retriever),
    ):
        assert choose_module([str(argument) for argument in arguments], []) is wanted


@pytest.mark.parametrize(
    "name, said",
    [
        ("Retreiver", "Did you mean Retriever?"),
        ("Rectifier", "is no module here"),
        ("Cosine", "is no module here"),
        ("os.system", "--allow os"),
        ("mine.Net", "--allow mine"),
        ("torch.optim.AdamW", "--allow torch"),
        ("pytorch_lightning.Trainer", "is no LightningModule"),
    ],
)
def test_a_name_that_trains_nothing(name, said):
    with pytest.raises(RectifyError, match=said.replace("?", r"\?")):
        choose_module(["fit", "--module", name], [])


def test_an_allowed_package_may_bring_its_own(tmp_path, monkeypatch):
    (tmp_path / "own_modules.py").write_text(
        "from lightning_rectify.lightning_modules import Retriever\nclass Mine(Retriever): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert choose_module(["--module", "own_modules.Mine"], ["own_modules"]).__name__ == "Mine"
    with pytest.raises(RectifyError, match="cannot be imported"):
        choose_module(["--module", "own_modules.Other"], ["own_modules"])


def test_the_recipe_prints_a_config_that_composes_again(command):
    printed = command("fit", "-c", "tcm_glyphs", "--print_config")
    assert printed.code == 0, printed.error
    config = yaml.safe_load(printed.out)
    assert config["module"] == "Retriever" and config["model"]["calibrate_far"] == 0.05
    (command.folder / "own.yaml").write_text(printed.out)
    again = command("fit", "-c", "own.yaml", "--print_config")
    assert again.code == 0 and again.out == printed.out
    assert yaml.safe_load(command("fit", "-c", "quickstart", "--print_config").out)["module"] == "Classifier"


def test_a_retriever_monitors_recall_unless_told_otherwise(command):
    printed = command("fit", "-c", "data/glyphs", "--module", "Retriever", "-c", "objective/fmix", "--print_config")
    assert printed.code == 0, printed.error
    checkpoint = yaml.safe_load(printed.out)["checkpoint"]
    assert (checkpoint["monitor"], checkpoint["mode"]) == ("val/recall_at_1", "max")
