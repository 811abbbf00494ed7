import pytest
import torch

from lightning_rectify.datamodules import SampleStore
from lightning_rectify.errors import RectifyError


def loop(size, updates, last):
    out = torch.zeros(size, dtype=torch.float64)
    for index, value in updates:
        for i, v in zip(index.tolist(), value.tolist(), strict=True):
            out[i] = v if last else out[i] + v
    return out


@pytest.mark.parametrize("last", [False, True])
def test_against_a_loop(last):
    updates = [(torch.randint(0, 7, (40,)), torch.randn(40)) for _ in range(5)]
    store = SampleStore(7)
    for index, value in updates:
        (store.assign if last else store.add)(index, value)
    assert torch.allclose(store.value.double(), loop(7, updates, last), atol=1e-5)
    assert torch.equal(store(torch.tensor([3, 3])), store.value[[3, 3]])


def test_state_is_fp32_and_survives_a_checkpoint_and_half_precision_values(tmp_path):
    store = SampleStore(5, fill=0.5, shape=(2,))
    store.add(torch.tensor([1]), torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True))
    torch.save(store.state_dict(), tmp_path / "s.pt")
    other = SampleStore(5, shape=(2,))
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert other.value.dtype == torch.float32
    assert other.value.tolist() == [[0.5, 0.5], [1.5, 1.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    assert not list(other.parameters())
    with pytest.raises(RuntimeError, match="size mismatch"):
        SampleStore(6, shape=(2,)).load_state_dict(store.state_dict())


def test_masked_rows_are_ignored_even_if_not_finite():
    store = SampleStore(3)
    mask = torch.tensor([True, False, False])
    for update in (store.add, store.assign):
        update(torch.tensor([0, 0, 1]), torch.tensor([2.0, float("nan"), float("inf")]), mask)
        assert store.value.tolist() == [2, 0, 0]


def test_bad_values():
    with pytest.raises(RectifyError, match="size is 0"):
        SampleStore(0)
    with pytest.raises(RectifyError, match="one row of shape"):
        SampleStore(3).add(torch.tensor([1, 2]), torch.zeros(3))
    with pytest.raises(RectifyError, match="one row of shape"):
        SampleStore(3, shape=(2,)).assign(torch.tensor([1, 2]), torch.zeros(2))
