"""The network of a series: scaling by its own past, recurrent cells, a Johnson SU head."""

import torch
from torch import Tensor

from training.families.series.features import Features
from training.families.series.heads import JohnsonHead, JohnsonSU
from training.families.series.scaling import Scaling
from training.families.series.settings import Transform
from training.networks.recurrent import Cells, RecurrentNetwork, State
from training.settings import Cell, Nonlinearity

WIDTH = 6
"""Numbers in a prediction."""


class SeriesNetwork(RecurrentNetwork):
    """Raw values ``(batch, time, width)`` -> the distribution of the next ``(batch, time, 6)``.

    The first column is the value, the others are those of `Features`. The six are location, scale,
    skewness and tail of a Johnson SU distribution of the next change in units of `spread`, then
    `anchor` (what the change counts from: the last value, or that of a season ago) and `spread`.
    The state is the cells' state, then that of the scaling, then that of the features.
    """

    def __init__(
        self,
        *,
        feature: str = "value",
        transform: Transform = Transform.LOG_RETURN,
        change_scale: float = 0.01,
        decays: tuple[float, ...] = (0.94,),
        lag: int = 1,
        features: Features | None = None,
        cell: Cell = Cell.LSTM,
        layers: int = 1,
        hidden: int = 32,
        dropout: float = 0.0,
        driftless: bool = False,
        nonlinearity: Nonlinearity = Nonlinearity.TANH,
        learns_initial: bool = False,
    ) -> None:
        super().__init__()
        self.feature = feature
        self.scaling = Scaling(
            transform=transform, change_scale=change_scale, decays=decays, lag=lag
        )
        self.features = features or Features()
        self.cells = Cells(
            cell=cell,
            inputs=self.scaling.width + self.features.width,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            nonlinearity=nonlinearity,
            learns_initial=learns_initial,
        )
        self.head = JohnsonHead(hidden, driftless=driftless)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a client sends at every step."""
        return (self.feature, *self.features.columns)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The cells' states, then the scaling's, then the features'."""
        return {
            **self.cells.state_shapes,
            **self.scaling.state_shapes,
            **self.features.state_shapes,
        }

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Map raw values to distributions in the values' own units."""
        own = len(self.cells.state_shapes)
        read, anchor, spread, following = self.read(x, state[own:])
        shape, cells_state = self.shape(read, state[:own])  # (batch, time, 4)
        y = torch.cat([shape, anchor, spread], dim=-1)  # (batch, time, 6)
        return y, cells_state + following

    def read(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """What the cells read of raw values, ``(batch, time, inputs)``; anchor, spread, states.

        ``state`` is what comes after the cells' part.
        """
        count = len(self.scaling.state_shapes)
        scaled, scaling_state = self.scaling(x[..., :1], state[:count])
        if not self.features.columns:
            return scaled.features, scaled.anchor, scaled.spread, scaling_state
        seen = state[list(self.scaling.state_shapes).index("seen")]
        beside, features_state = self.features(x[..., 1:], seen, state[count:])
        read = torch.cat([scaled.features, beside], dim=-1)
        return read, scaled.anchor, scaled.spread, scaling_state + features_state

    def shape(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Map scaled features ``(batch, time, inputs)`` to Johnson SU shapes ``(batch, time, 4)``.

        ``state`` is the cells' part alone: training scales the series once, beforehand.
        """
        y, state = self.cells(features, state)  # (batch, time, hidden)
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float()), state

    def value_at(self, prediction: Tensor, level: Tensor) -> Tensor:
        """Quantiles ``(…, K)`` of next values from predictions ``(…, 6)``, levels ``(…, K)``."""
        parts = prediction[..., :4, None].unbind(-2)  # (…, 1) each
        location, scale, skewness, tail = parts
        unit = JohnsonSU(location=location, scale=scale, skewness=skewness, tail=tail)
        change = unit.quantile(level) * prediction[..., 5:6]
        anchor = prediction[..., 4:5]
        if self.scaling.transform is Transform.LOG_RETURN:
            return anchor * torch.exp(change)
        return anchor + change
