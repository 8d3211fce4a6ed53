"""The loop that NeRF and DMTet share: steps with checkpoints and previews, until done or stopped.
"""
import logging

from sgm.common.cli import until_stopped

EVERY = 10                                      # steps between two rows of a trainer's history
log = logging.getLogger("sgm")


def optimize(trainer, *, end=None, save=None, preview=None, progress=None):
    """Run the steps that a trainer has left, or those before `end`. Return whether it got there.

    trainer: a `NerfTrainer` or `Refiner`, or anything with a `name`; `done` and `total`, numbers of
    steps; `step()`, which returns the loss and the PSNR in dB; `state()`, {name: array}; `history`,
    a list that rows (done, loss, psnr) are added to; and `settings` with save_every and
    preview_every (0 = only at the end, and never).
    save(arrays) is called with the state every settings.save_every steps and at the end.
    preview() is called every settings.preview_every steps and at the end.
    progress(psnr) is called after every step; psnr is a mean over the last ten or so.

    Ctrl-C and SIGTERM end the loop after the current step, and its state is saved; a second one
    ends the program at once.
    """
    settings, psnr = trainer.settings, None
    end = trainer.total if end is None else end
    with until_stopped() as stopped:            # an exception inside MindSpore would break it
        while trainer.done < end and not stopped:
            loss, found = trainer.step()
            psnr = found if psnr is None else 0.9 * psnr + 0.1 * found
            if progress is not None:
                progress(psnr)
            done, last = trainer.done, trainer.done == end or bool(stopped)
            if last or done % EVERY == 0:
                trainer.history.append((done, loss, psnr))
            if save is not None and (
                last or settings.save_every and done % settings.save_every == 0
            ):
                save(trainer.state())
            if (
                preview is not None
                and settings.preview_every
                and (last or done % settings.preview_every == 0)
            ):
                preview()
    if stopped:
        log.warning(
            "%s: stopped after %d of %d steps; the result is as it was then",
            trainer.name,
            trainer.done,
            trainer.total,
        )
    return trainer.done >= end
