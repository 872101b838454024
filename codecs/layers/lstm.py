"""A residual LSTM over time, whose state is passed in and out."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ResidualLSTM(nn.Module):
    """`x + lstm(x)` over `[batch, time, channel]`; called like the convolutions, `(x, carry, final) -> (y, carry)`."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(
        self, x: Float[Tensor, "batch time channel"], carry: tuple[Tensor, Tensor] | None = None, final: bool = True
    ) -> tuple[Float[Tensor, "batch time channel"], tuple[Tensor, Tensor] | None]:
        """Outputs of `x` and the hidden and cell state behind it."""
        if x.shape[1] == 0:
            return x, carry
        y, carry = self.lstm(x.transpose(0, 1).contiguous(), carry)  # [time, batch, channel]: the steps are contiguous
        return y.transpose(0, 1) + x, carry
