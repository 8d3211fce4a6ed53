"""The loss curve of a run as a picture."""
import csv

import cv2
import numpy as np


def draw_curve(path, width=720, height=360):
    """The loss (blue, logarithmic) and learning rate (grey, linear) over steps in a metrics.csv: (H, W, 3) uint8."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(float(row["step"]), float(row["loss"]), float(row["lr"])) for row in csv.DictReader(file)]
    picture = np.full((height, width, 3), 255, np.uint8)
    if len(rows) < 2:
        return picture
    steps, losses, rates = np.array(rows).T
    left, right, top, bottom = 60, width - 20, 20, height - 40
    levels = np.log10(np.maximum(losses, 1e-12))
    low, high = np.floor(levels.min() * 10) / 10, np.ceil(levels.max() * 10) / 10 + 1e-9
    across = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (right - left)

    def line(values, colour):
        points = np.stack([across, bottom - values * (bottom - top)], 1).round().astype(np.int32)
        cv2.polylines(picture, [points], False, colour, 1, cv2.LINE_AA)

    for level in np.arange(low, high, max(0.1, round((high - low) / 5, 1))):
        y = int(bottom - (level - low) / (high - low) * (bottom - top))
        cv2.line(picture, (left, y), (right, y), (225, 225, 225), 1)
        cv2.putText(picture, f"{10 ** level:.3g}", (8, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    line(rates / rates.max(), (190, 190, 190))
    line((levels - low) / (high - low), (31, 119, 180))
    cv2.putText(picture, f"loss (blue) and learning rate (grey) over steps {steps[0]:.0f} to {steps[-1]:.0f}",
                (left, height - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return picture
