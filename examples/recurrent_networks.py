"""Draws the figures of `docs/recurrent-networks.md`: ``python -m examples.recurrent_networks``.

Every curve is computed here, with the project's own networks; nothing is drawn by hand.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from training.networks.recurrent import Cells
from training.settings import Cell

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

IMAGES = Path("docs/images")
COLOURS = {Cell.RNN: "#c44e52", Cell.GRU: "#dd8452", Cell.LSTM: "#4c72b0"}
GREY = "#8c8c8c"


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, draw in (
        ("unrolling", draw_unrolling),
        ("tasks", draw_tasks),
        ("gradients", draw_gradients),
        ("memory", draw_memory),
        ("temperature", draw_temperature),
        ("random-walk", draw_random_walk),
    ):
        figure = draw()
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=90, bbox_inches="tight")
        plt.close(figure)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    return 0


def gradient_by_distance(
    cell: Cell, *, steps: int, gain: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """How much the last output depends on the input so many steps before it, untrained.

    ``gain`` multiplies the recurrent weights. Returns norms of the gradient (steps,), the last
    step's own first, which is 1.
    """
    torch.manual_seed(seed)
    cells = Cells(cell=cell, inputs=3, hidden=16, layers=1, dropout=0.0).double()
    with torch.no_grad():
        for name, parameter in cells.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(gain)
    x = (torch.randn(8, steps, 3, dtype=torch.float64) * 0.3).requires_grad_()
    start = tuple(
        torch.zeros(8, *shape, dtype=torch.float64) for shape in cells.state_shapes.values()
    )
    y = doubles(cells, x, start)
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), x)
    norms = gradient.norm(dim=(0, 2)).flip(0).numpy()
    found: NDArray[np.float64] = norms / norms[0]
    return found


def doubles(cells: Cells, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
    """Outputs (batch, time, hidden) of one layer, in double precision."""
    parts = tuple(part.unsqueeze(0) for part in state)
    y: Tensor = cells.layers[0](x, parts if len(parts) > 1 else parts[0])[0]
    return y


def remember(count: int, draws: torch.Generator, *, gap: int) -> tuple[Tensor, Tensor]:
    """Write a sign at the first step, keep it through noise, and read it at the last.

    Returns inputs (count, gap + 2, 3), of value, write and read, and the signs (count,).
    """
    signs = torch.randint(0, 2, (count,), generator=draws).float() * 2 - 1
    x = torch.zeros(count, gap + 2, 3)
    x[:, 1:-1, 0] = torch.randn(count, gap, generator=draws) * 0.3
    x[:, 0, 0], x[:, 0, 1], x[:, -1, 2] = signs, 1.0, 1.0
    return x, signs


def draw_gradients() -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for cell, colour in COLOURS.items():
        axes.semilogy(gradient_by_distance(cell, steps=60), color=colour, label=cell.upper())
    exploding = gradient_by_distance(Cell.RNN, steps=60, gain=4.0, seed=1)
    axes.semilogy(exploding, color=COLOURS[Cell.RNN], ls="--", label="RNN, recurrent weights × 4")
    axes.set(xlabel="steps between an input and the output", ylabel="norm of the gradient")
    axes.set_ylim(bottom=1e-18)
    return finished(figure, axes)


def draw_memory() -> Figure:
    """Train an LSTM to write, keep and read a sign, and show a state that holds it."""
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    cells, head = Cells(cell=Cell.LSTM, inputs=3, hidden=8, layers=1, dropout=0.0), nn.Linear(8, 1)
    parameters = [*cells.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 0.02)

    def start(count: int) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(count, *shape) for shape in cells.state_shapes.values())

    for _ in range(250):
        x, signs = remember(32, draws, gap=16)
        loss = mse_loss(head(cells(x, start(32))[0][:, -1])[:, 0], signs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    x, signs = remember(24, draws, gap=16)
    state, path = start(24), []
    with torch.no_grad():
        for step in range(x.shape[1]):
            _, state = cells(x[:, step : step + 1], state)
            path.append(state[1])  # c, (24, 8)
    c = torch.stack(path)  # (time, 24, 8)
    apart = c[-2, signs > 0].mean(dim=0) - c[-2, signs < 0].mean(dim=0)
    holder = int(apart.abs().argmax())
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    for sign, colour in ((1.0, "#4c72b0"), (-1.0, "#c44e52")):
        lines = axes.plot(c[:, signs == sign, holder].numpy(), color=colour, lw=0.8, alpha=0.7)
        lines[0].set_label(f"{'+' if sign > 0 else '−'}1 was written")  # noqa: RUF001
    axes.set(xlabel="step: written at 0, noise between, read at the end", ylabel="one unit of c")
    return finished(figure, axes)


def draw_temperature() -> Figure:
    logits = np.array([2.0, 1.2, 0.4, -0.5, -1.5])
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    for place, temperature in enumerate((0.3, 1.0, 2.0)):
        chances = np.exp(logits / temperature)
        chances /= chances.sum()
        axes.bar(np.arange(5) + 0.27 * (place - 1), chances, 0.25, label=f"T = {temperature}")
    axes.set_xticks(range(5), list("abcde"))
    axes.set(ylabel="probability of the next character")
    return finished(figure, axes)


def draw_random_walk() -> Figure:
    """The best forecast of a random walk is its last value, and an honest fan around it."""
    rng = np.random.default_rng(4)
    changes = rng.normal(0, 0.01, 120)
    seen, ahead = 100 * np.exp(np.cumsum(changes)), np.arange(1, 41)
    futures = seen[-1] * np.exp(np.cumsum(rng.normal(0, 0.01, (20, 40)), axis=1))
    width = 1.2816 * changes.std() * np.sqrt(ahead)  # 10 % lie above, 10 % below
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    axes.plot(seen, color="black", lw=1)
    axes.plot(119 + ahead, futures.T, color=GREY, lw=0.5, alpha=0.6)
    axes.plot([], [], color=GREY, lw=0.5, label="20 ways to go on")
    axes.plot(119 + ahead, np.full(40, seen[-1]), color=COLOURS[Cell.LSTM], label="last value")
    low, high = seen[-1] * np.exp(-width), seen[-1] * np.exp(width)
    axes.fill_between(119 + ahead, low, high, alpha=0.2, label="80 % interval")
    axes.set(xlabel="step", ylabel="value")
    return finished(figure, axes)


def draw_unrolling() -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 1.9))
    for place, letter in enumerate("hell"):
        box(axes, place, 1, "cell", width=0.56)
        arrow(axes, (place, 0.2), (place, 0.75))
        arrow(axes, (place, 1.25), (place, 1.8))
        arrow(axes, (place - 0.72, 1), (place - 0.28, 1))
        axes.text(place, 0.05, letter, ha="center", va="center", family="monospace")
        axes.text(place, 1.95, "ello"[place], ha="center", va="center", family="monospace")
        axes.text(place - 0.5, 1.14, f"$h_{place}$", ha="center", fontsize=9)
    arrow(axes, (3.28, 1), (3.72, 1))
    axes.text(3.5, 1.14, "$h_4$", ha="center", fontsize=9)
    return bare(figure, [axes], (-0.8, 3.8), (-0.15, 2.1))


def draw_tasks() -> Figure:
    figure, all_axes = plt.subplots(1, 4, figsize=(8.6, 2.1))
    cases: tuple[tuple[str, Sequence[int], Sequence[int], bool], ...] = (
        ("one to many", [0], [0, 1, 2], False),
        ("many to one", [0, 1, 2], [2], False),
        ("many to many", [0, 1, 2], [0, 1, 2], False),
        ("bidirectional", [0, 1, 2], [0, 1, 2], True),
    )
    for axes, (title, inputs, outputs, both) in zip(all_axes, cases, strict=True):
        for place in range(3):
            box(axes, place, 1, "", width=0.5)
            if place:
                arrow(axes, (place - 0.75, 1.08), (place - 0.25, 1.08))
                if both:
                    arrow(axes, (place - 0.25, 0.92), (place - 0.75, 0.92))
            if place in inputs:
                arrow(axes, (place, 0.2), (place, 0.75))
            if place in outputs:
                arrow(axes, (place, 1.25), (place, 1.8))
        axes.set_title(title, fontsize=10)
    return bare(figure, list(all_axes), (-0.6, 2.6), (0.1, 1.9))


def box(axes: Axes, x: float, y: float, text: str, *, width: float) -> None:
    shape = Rectangle((x - width / 2, y - 0.25), width, 0.5, fc="#e8eef7", ec="#4c72b0")
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#444444"})


def finished(figure: Figure, axes: Axes) -> Figure:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def bare(
    figure: Figure, all_axes: list[Axes], x: tuple[float, float], y: tuple[float, float]
) -> Figure:
    for axes in all_axes:
        axes.set(xlim=x, ylim=y)
        axes.axis("off")
    return figure


if __name__ == "__main__":
    sys.exit(main())
