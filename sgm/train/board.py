"""TensorBoard events of a run, where tensorboardX is installed; it is no requirement."""
import math


def open_board(folder, done):
    """A Board that writes into `folder`, or None without tensorboardX. done: events after that step, which a run that
    goes on will make again, are hidden."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return Board(SummaryWriter(str(folder), purge_step=done + 1 if done else None))


class Board:
    """Numbers and pictures of steps to a tensorboardX.SummaryWriter."""

    def __init__(self, writer):
        self.writer = writer

    def add(self, step, values):
        """Note {name: number}; those that are no numbers are left out. On the disk when this returns."""
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def show(self, step, picture):
        """Note a picture (H, W, 3) uint8."""
        self.writer.add_image("held back", picture, step, dataformats="HWC")
