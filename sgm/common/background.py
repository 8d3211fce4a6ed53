"""Work of the host beside that of the device, in one thread that does one thing after the other."""
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

THREADS = set()         # the kernel's numbers of such threads: `sgm.ops.wait` waits for others only
log = logging.getLogger("sgm")
_own = threading.local()                        # `records` of a background thread


class Line:
    """Takes items through three stages, the first and the last of which run in the background.

    before(item) prepares an item, during(item, prepared) makes its result in the caller's thread,
    after(item, made) writes it unless it is None, done(item, written) tells that it is there, in
    the caller's thread. What a stage raises goes to failed(item, error), in the caller's thread; if
    that returns, the next item's turn comes. While an item is made, the one before is written and
    the next one is prepared, and no more: memory holds three.
    """

    def __init__(self, before, during, after, done, failed):
        self.before, self.during, self.after = before, during, after
        self.done, self.failed = done, failed
        self.written = None                     # (item, its Work) of what is being written

    def run(self, items):
        """Take all items through the stages.

        Whatever ends it, Ctrl-C too: what has been made will be written.
        """
        items = iter(items)
        with Background() as background:
            ahead = self._begin(background, items)
            try:
                while ahead is not None:
                    item, work = ahead
                    prepared = self._tried(item, work.result)
                    ahead = self._begin(background, items)
                    made = None
                    if prepared is not None:
                        made = self._tried(item, self.during, item, prepared)
                    self.look(wait=True)
                    if made is not None:
                        self.written = item, background.start(self.after, item, made)
                self.look(wait=True)
            finally:
                if ahead is not None:
                    ahead[1].cancel()
                self.look(wait=True)

    def look(self, wait=False):
        """Tell that an item has been written, if it has; wait: wait for it."""
        if self.written is not None and (wait or self.written[1].is_done()):
            (item, work), self.written = self.written, None
            written = self._tried(item, work.result)
            if written is not None:
                self.done(item, written)

    def _begin(self, background, items):
        for item in items:
            return item, background.start(self.before, item)
        return None

    def _tried(self, item, function, *args):
        try:
            return function(*args)
        except Exception as error:
            self.look(wait=True)                # what is told is in the order of the items
            self.failed(item, error)
            return None


class Background:
    """Context manager: a thread in which `start` runs functions in their order.

    At its end the function that runs is waited for, and what has not begun is dropped.
    """

    def __init__(self):
        self.pool = ThreadPoolExecutor(1, initializer=self._begin)
        self.thread = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=True)
        THREADS.discard(self.thread)            # another thread may get its number

    def _begin(self):
        self.thread = str(threading.get_native_id())
        THREADS.add(self.thread)

    def start(self, function, *args):
        """Run a function as soon as the earlier ones are done; return its `Work`."""
        return Work(self.pool.submit(_run, function, args))


class Work:
    """A function in the background."""

    def __init__(self, future):
        self.future = future

    def is_done(self):
        """Return whether `result` need not wait."""
        return self.future.done()

    def cancel(self):
        """Drop it, if it has not begun."""
        self.future.cancel()

    def result(self):
        """Return what the function returns, once it does, or raise what it raises.

        What it logged is said now, as it would be if it ran here, and not among other lines.
        """
        result, error, records = self.future.result()
        for record in records:
            log.handle(record)
        if error is not None:
            raise error
        return result


def _is_said(record):
    """Return whether a record is said at once: the filter that keeps those of the background."""
    records = getattr(_own, "records", None)
    if records is not None:
        records.append(record)
    return records is None


log.addFilter(_is_said)


def _run(function, args):
    _own.records = []
    try:
        return function(*args), None, _own.records
    except Exception as error:
        return None, error, _own.records
