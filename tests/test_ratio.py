"""Fractions as people write them."""

import copy
import pickle

import pytest
from jsonargparse import ArgumentParser

from lightning_rectify.ratio import Number, Ratio


@pytest.mark.parametrize(
    ("written", "value"),
    [("8/255", 8 / 255), ("2 / 255", 2 / 255), ("0.031", 0.031), (0.5, 0.5), (1, 1.0), ("1e-2", 0.01)],
)
def test_values(written, value):
    ratio = Ratio(written)
    assert ratio == value and isinstance(ratio, float)
    for other in (copy.deepcopy(ratio), pickle.loads(pickle.dumps(ratio))):
        assert other == value and str(other) == str(ratio)


@pytest.mark.parametrize("written", ["8/0", "eight", "", "1/2/3", "nan", "inf"])
def test_what_is_no_number(written):
    with pytest.raises(ValueError, match="8/255"):
        Ratio(written)


DEFAULT = Ratio(0.03)


def take(eps: Number = DEFAULT):
    return eps


@pytest.mark.parametrize("mode", ["yaml", "omegaconf+"])
def test_a_config_keeps_the_fraction_as_written(mode):
    parser = ArgumentParser(exit_on_error=False, parser_mode=mode)
    parser.add_function_arguments(take)
    config = parser.parse_args(["--eps", "8/255"])
    assert config.eps == 8 / 255 and parser.dump(config).strip() == "eps: 8/255"
    assert parser.parse_string("eps: 2/255").eps == 2 / 255
    assert parser.dump(parser.parse_string("eps: 0.5")).strip() == "eps: 0.5"
    for wrong in ("eight", "true"):
        with pytest.raises(Exception, match="8/255"):
            parser.parse_args(["--eps", wrong])
