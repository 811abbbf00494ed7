"""Mistakes in attacks and in the report of robustness."""

from table import FIT, Row, write

AT = (*FIT, "-c", "objective/pgd_at")
REPORT = "trainer: {{callbacks+: [{{class_path: RobustnessReport, init_args: {{{}}}}}]}}\n"


def given(options: str):
    return (*FIT, "-c", "a.yaml"), write("a.yaml", REPORT.format(options))


ROWS = [
    Row("unknown attack in a file", (*AT, "-c", "a.yaml"),
        ("model.objective.init_args.attack: 'PDG' is no known class", "Did you mean PGD?"),
        write("a.yaml", "model: {objective: {init_args: {attack: PDG}}}\n")),
    Row("unknown attack by its option", (*AT, "--model.objective.attack", "PDG"),
        ("model.objective.attack: 'PDG' is no known class", "Did you mean PGD?")),
    *(
        Row(name, arguments, said, prepare)
        for name, said, (arguments, prepare) in (
            ("unknown attack in a list", ("trainer.callbacks+[0].init_args.attack: 'PDG'", "Did you mean PGD?"),
             given("attack: PDG")),
            ("no attacked sample", ("samples is 0", "null for all"), given("samples: 0")),
            ("unknown mode of AutoAttack", ("autoattack", "full", "standard"), given("autoattack: full")),
            ("measured field of the card", ("card.clean_acc is measured",), given("card: {clean_acc: '99'}")),
            ("APGD in the wrong unit", ("eps is 8", "8/255"),
             given("attack: {class_path: APGD, init_args: {eps: 8}}")),
            ("unknown loss of APGD", ("loss", "kl", "dlr"), given("attack: {class_path: APGD, init_args: {loss: kl}}")),
        )
    ),
]  # fmt: skip
