"""What changes from step to step: learning rate, how fast the average follows, the scale of the loss in float16."""
import numpy as np


def learning_rate(recipe, step):
    """Of step `step` (from 0): a linear rise over `warmup` steps, then lr, or a cosine from lr to lr_final * lr."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.lr_final + (1 - recipe.lr_final) * 0.5 * (1 + np.cos(np.pi * progress)))


def average_decay(recipe, step):
    """The average follows quickly at first, so that it forgets the start."""
    return min(recipe.average_decay, (1 + step) / (10 + step))


class LossScale:
    """Dynamic scale of the loss, so that small gradients survive float16 (Micikevicius et al. 2018, arXiv 1710.03740).

    Halved when a gradient overflows, which costs the step, and doubled after `interval` steps without. Powers of two:
    scaling changes no digit. Other precisions have the range of float32, and a scale of 1.
    """

    LARGEST = 2.0 ** 24

    def __init__(self, precision, start=2.0 ** 16, interval=2000):
        self.dynamic = precision == "fp16"
        self.value = start if self.dynamic else 1.0
        self.interval, self.good = interval, 0

    def update(self, finite):
        """Note whether a step's gradients were finite; -> whether a smaller scale may mend them if they were not."""
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
        """What a resumed run needs, a dict."""
        return {"value": self.value, "good": self.good}

    def restore(self, state):
        """Continue from `state()`."""
        self.value, self.good = float(state["value"]), int(state["good"])
