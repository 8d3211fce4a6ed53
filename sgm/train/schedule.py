"""What changes from step to step: learning rate, moving average, scale of the loss in float16."""
import numpy as np


def learning_rate(recipe, step):
    """Return the learning rate of step `step` (from 0).

    It is a linear rise over `warmup` steps, then lr, or a cosine or line from lr to lr_final * lr.
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    if recipe.schedule == "linear":
        return recipe.lr * (1 - (1 - recipe.lr_final) * progress)
    return recipe.lr * (recipe.lr_final + (1 - recipe.lr_final) * 0.5 *
                        (1 + np.cos(np.pi * progress)))


def described_rate(recipe):
    """Return in words which optimizer a recipe takes, and at what rates."""
    name = {"adamw": "AdamW", "muon": "Muon, AdamW for what is no matrix"}[recipe.optimizer]
    return (f"{recipe.lr:g}, {recipe.schedule}, {recipe.warmup} steps of warm-up; {name}, decay"
            f" {recipe.weight_decay:g}")


def average_decay(recipe, step):
    """Return the decay of the moving average, low at first: it has to forget the start."""
    return min(recipe.average_decay, (1 + step) / (10 + step))


class LossScale:
    """Dynamic scale of the loss, so that small gradients survive float16.

    Source: Micikevicius et al. 2018, arXiv 1710.03740. Halved when a gradient overflows, which
    costs the step, and doubled after `interval` steps without. Powers of two: scaling changes no
    digit. Other precisions have the range of float32, and a scale of 1.
    """

    LARGEST = 2.0 ** 24

    def __init__(self, precision, start=2.0 ** 16, interval=2000):
        self.dynamic = precision == "fp16"
        self.value = start if self.dynamic else 1.0
        self.interval, self.good = interval, 0

    def update(self, finite):
        """Note whether a step's gradients were finite.

        Returns whether to retry with a smaller scale, which may avoid the overflow.
        """
        if not self.dynamic:
            return False
        if finite:
            self.good += 1
            if self.good >= self.interval:
                self.value, self.good = min(2 * self.value, self.LARGEST), 0
            return False
        retry = self.value > 1
        self.value, self.good = max(1.0, self.value / 2), 0
        return retry

    def state(self):
        """Return what a resumed run needs, a dict."""
        return {"value": self.value, "good": self.good}

    def restore(self, state):
        """Continue from `state()`."""
        self.value, self.good = float(state["value"]), int(state["good"])
