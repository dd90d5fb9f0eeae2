"""The cross-entropy behind a frozen output head, without ever holding the logits of more than a few rows.

Letters: N rows, H hidden size, V vocabulary.
"""

from typing import Any

import torch

ROWS_AT_ONCE = 256
"""The logits of so many rows are in memory at once: 268 MB of float32 with Gemma 3's vocabulary."""


class FrozenHeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Sum of the rows' cross-entropies. The gradient is computed with the loss, since the head learns nothing."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, softcap: float | None
    ) -> torch.Tensor:
        """`hidden` [N, H], `head` [V, H], `targets` [N] ids; `softcap` bounds logits as c · tanh(x / c)."""
        total = hidden.new_zeros((), dtype=torch.float32)
        wanted = hidden.requires_grad
        gradient = torch.empty_like(hidden, dtype=torch.float32) if wanted else None
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            logits = hidden[rows].to(head.dtype) @ head.T
            slope = None
            if softcap is not None:
                bent = torch.tanh(logits.float() / softcap)
                slope, logits = 1 - bent**2, bent * softcap
            chosen = targets[rows, None]
            logs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            total -= logs.gather(1, chosen).sum()
            if gradient is not None:
                errors = logs.exp_()
                errors.scatter_add_(1, chosen, errors.new_full(chosen.shape, -1.0))
                if slope is not None:
                    errors.mul_(slope)
                gradient[rows] = (errors.to(head.dtype) @ head).float()
        if gradient is not None:
            context.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(context: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of `hidden`."""
        (gradient,) = context.saved_tensors
        return gradient * scale, None, None, None


def head_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """The sum of the rows' cross-entropies in nats, a scalar; see `FrozenHeadLoss.forward`."""
    loss: torch.Tensor = FrozenHeadLoss.apply(hidden, head, targets, softcap)
    return loss
