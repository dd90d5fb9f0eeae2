"""The losses of a training as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from gemlora.training.history import History

SMOOTHED_SHARE = 0.05
"""Share of the steps over which the line of the training loss averages."""


def draw_curves(history: History, path: Path) -> None:
    """Write a PNG with the loss of each step, their moving mean, and the held-out examples' loss."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [one.step for one in history.steps]
    losses = [one.loss for one in history.steps]
    axes.plot(steps, losses, color="#9ab", linewidth=0.6, label="each batch")
    axes.plot(steps, moving_mean(losses, max(1, round(SMOOTHED_SHARE * len(losses)))), color="#258", label="mean")
    if history.evaluations:
        looks = history.evaluations
        axes.plot([one.step for one in looks], [one.loss for one in looks], "o-", color="#c52", label="held out")
    axes.set(xlabel="step", ylabel="loss per token (nats)", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def moving_mean(numbers: list[float], width: int) -> list[float]:
    """The mean of each number and up to `width` − 1 before it."""
    means = []
    for index in range(len(numbers)):
        recent = numbers[max(0, index + 1 - width) : index + 1]
        means.append(sum(recent) / len(recent))
    return means
