"""The loss behind a frozen head is PyTorch's own cross-entropy, and so is its gradient."""

import pytest
import torch

from gemlora.training import loss
from gemlora.training.loss import head_loss


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rows_at_once", [3, 100])
def test_loss_and_gradient_are_pytorchs(
    softcap: float | None, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "ROWS_AT_ONCE", rows_at_once)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 16, generator=generator, requires_grad=True)
    head = torch.randn(50, 16, generator=generator)
    targets = torch.randint(0, 50, (10,), generator=generator)
    logits = hidden @ head.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (slope,) = torch.autograd.grad(3 * expected, hidden)
    found = head_loss(hidden, head, targets, softcap)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, hidden)[0], slope)


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    assert not head_loss(torch.randn(4, 8), torch.randn(9, 8), torch.tensor([0, 1, 2, 8]), None).requires_grad
