"""The loss curve of a run as a picture."""
import cv2
import numpy as np


def draw_curve(rows, width=720, height=360):
    """The loss (blue, logarithmic), the held-back loss (orange) and the learning rate (grey, linear) over steps.

    rows: dicts of text as in metrics.csv, see `sgm.train.metrics.read_metrics` -> (H, W, 3) uint8. Rows without a finite
    loss are left out.
    """
    table = np.array([[float(row[name] or "nan") for name in ("step", "loss", "lr", "val_loss")] for row in rows])
    picture = np.full((height, width, 3), 255, np.uint8)
    table = table[np.isfinite(table[:, 1])] if len(table) else table
    if len(table) < 2:
        return picture
    steps, losses, rates, held_back = table.T
    seen = np.isfinite(held_back)
    left, right, top, bottom = 60, width - 20, 20, height - 40
    levels, held_back = (np.log10(np.maximum(values, 1e-12)) for values in (losses, held_back))
    everything = np.concatenate([levels, held_back[seen]])
    low, high = np.floor(everything.min() * 10) / 10, np.ceil(everything.max() * 10) / 10 + 1e-9
    across = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (right - left)

    def line(values, colour, across=across):
        points = np.stack([across, bottom - values * (bottom - top)], 1).round().astype(np.int32)
        cv2.polylines(picture, [points], False, colour, 1, cv2.LINE_AA)

    for level in np.arange(low, high, max(0.1, round((high - low) / 5, 1))):
        y = int(bottom - (level - low) / (high - low) * (bottom - top))
        cv2.line(picture, (left, y), (right, y), (225, 225, 225), 1)
        cv2.putText(picture, f"{10 ** level:.3g}", (8, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    line(rates / rates.max(), (190, 190, 190))
    line((levels - low) / (high - low), (31, 119, 180))
    if seen.any():
        line((held_back[seen] - low) / (high - low), (255, 127, 14), across[seen])
    held = ", held-back loss (orange)" * bool(seen.any())
    cv2.putText(picture, f"loss (blue){held} and learning rate (grey) over steps {steps[0]:.0f} to {steps[-1]:.0f}",
                (left, height - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return picture
