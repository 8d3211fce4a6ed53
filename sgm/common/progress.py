"""A progress bar that an interrupt cannot break."""
from tqdm import tqdm


class Bar(tqdm):
    """A tqdm bar that only its `with` block closes."""

    def __del__(self):
        """Do nothing: Ctrl-C while Python deletes an object prints a traceback."""
