"""The forms of a batch give the same parts, and a batch without a request one sentence."""

import pytest
import torch

from lightning_rectify.errors import RectifyError
from lightning_rectify.losses import parts, portions


def flat(rows):
    rows = torch.tensor(rows)
    return {"image": rows[:, None, None, None].float(), "label": rows % 3, "index": rows}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_three_forms_give_the_same_parts():
    forget, retain = flat([1, 4]), flat([0, 2, 3])
    mixed = {**flat([0, 1, 2, 3, 4]), "forget": torch.tensor([0, 1, 0, 0, 1]).bool()}
    for batch in ({"forget": forget, "retain": retain}, mixed):
        found = parts(batch)
        assert same(found[0], forget) and same(found[1], retain)
    assert parts({"forget": forget, "retain": None}) == (forget, None)
    assert parts({"retain": retain}) == (None, retain)


def test_portions_keep_a_mixed_batch_whole():
    mixed = {**flat([0, 1, 2]), "forget": torch.tensor([False, True, False])}
    (portion,) = portions(mixed)
    assert portion.mixed and portion.forgets and portion.batch is mixed
    assert portion.forget.tolist() == [False, True, False]
    first, second = portions({"retain": flat([0]), "forget": flat([1, 2])})
    assert first.forget.tolist() == [True, True] and first.forgets and not first.mixed
    assert second.forget.tolist() == [False] and not second.forgets and not second.mixed


@pytest.mark.parametrize("read", [parts, portions])
@pytest.mark.parametrize("batch", [flat([0]), {}])
def test_a_batch_without_a_request_is_refused(read, batch):
    with pytest.raises(RectifyError, match=r"--data\.forget"):
        read(batch)


def test_a_step_of_nothing_is_refused():
    with pytest.raises(RectifyError, match="neither a forget nor a retain part"):
        portions({"forget": None, "retain": None})
