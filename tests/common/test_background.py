"""Work beside the caller's: what overlaps, how much is held at once, and what is left when something ends it."""
import logging
import threading
import time

import pytest

from sgm.common.background import THREADS, Background, Line
from sgm.ops import device


class Steps:
    """Stages that note what happens; before and after wait until they may go on, where `gates` say so."""

    def __init__(self, fails=(), gates=None):
        self.fails, self.gates, self.said, self.threads = set(fails), gates or {}, [], {}

    def stage(self, name, item):
        self.threads.setdefault(name, set()).add(threading.get_ident())
        self.said.append((name, item))
        if (name, item) in self.gates:
            assert self.gates[name, item].wait(20)
        if (name, item) in self.fails:
            raise ValueError(f"{name} {item}")

    def before(self, item):
        self.stage("before", item)
        return item * 10

    def during(self, item, prepared):
        assert prepared == item * 10
        self.stage("during", item)
        return item * 100

    def after(self, item, made):
        assert made == item * 100
        self.stage("after", item)
        return item * 1000

    def done(self, item, written):
        assert written == item * 1000
        self.said.append(("done", item))

    def failed(self, item, error):
        self.said.append(("failed", item, str(error)))

    def line(self):
        return Line(self.before, self.during, self.after, self.done, self.failed)

    def of(self, *names):
        return [entry for entry in self.said if entry[0] in names]


def test_stages_of_items_in_order():
    steps = Steps()
    steps.line().run([1, 2, 3])
    for name in ("before", "during", "after", "done"):
        assert steps.of(name) == [(name, item) for item in (1, 2, 3)]
    here = {threading.get_ident()}
    assert steps.threads["during"] == here and steps.threads["before"] == steps.threads["after"] and len(steps.threads["after"]) == 1
    assert steps.threads["after"] != here


def test_the_next_is_prepared_and_the_last_is_written_while_one_is_made():
    """Item 2 is not over before item 3 is prepared and item 1 is written: without overlap this waits for ever."""
    reached = threading.Event()
    steps = Steps(gates={("during", 2): reached})
    before = steps.before

    def prepare(item):
        if item == 3:           # in one thread, in order: item 1 has been written by now
            assert ("after", 1) in steps.said
            reached.set()
        return before(item)
    steps.before = prepare
    steps.line().run([1, 2, 3])
    assert steps.of("done") == [("done", 1), ("done", 2), ("done", 3)]


def test_at_most_three_are_held():
    taken = []

    def items():
        for item in range(6):
            taken.append(item)
            yield item
    steps, most = Steps(), []
    during = steps.during

    def make(item, prepared):
        most.append(len(taken) - len(steps.of("done")))
        return during(item, prepared)
    steps.during = make
    steps.line().run(items())
    assert most == [2, 3, 3, 3, 3, 2]           # itself, the next one, the one before


@pytest.mark.parametrize("stage", ["before", "during", "after"])
def test_one_that_fails_does_not_stop_the_others(stage):
    steps = Steps(fails=[(stage, 2)])
    steps.line().run([1, 2, 3])
    assert steps.of("failed") == [("failed", 2, f"{stage} 2")] and steps.of("done") == [("done", 1), ("done", 3)]


def test_what_is_told_is_in_the_order_of_the_items():
    """That the second one failed is known before the first one is written."""
    slow = threading.Event()
    steps = Steps(fails=[("during", 2), ("before", 3)], gates={("after", 1): slow})
    threading.Timer(0.2, slow.set).start()
    steps.line().run([1, 2, 3, 4])
    assert steps.of("done", "failed") == [("done", 1), ("failed", 2, "during 2"), ("failed", 3, "before 3"), ("done", 4)]


def test_what_is_made_is_written_when_something_ends_it():
    """Ctrl-C while the second is made: the first will be written, the third is not begun."""
    steps = Steps()
    during, slow = steps.during, threading.Event()
    steps.gates["after", 1] = slow

    def make(item, prepared):
        if item == 2:
            threading.Timer(0.2, slow.set).start()
            raise KeyboardInterrupt
        return during(item, prepared)
    steps.during = make
    with pytest.raises(KeyboardInterrupt):
        steps.line().run([1, 2, 3, 4])
    assert steps.of("done") == [("done", 1)] and ("before", 3) not in steps.said
    assert not THREADS


def test_an_error_that_is_raised_again_ends_it():
    steps = Steps(fails=[("after", 1)])

    def failed(item, error):
        raise error
    steps.failed = failed
    with pytest.raises(ValueError, match="after 1"):
        steps.line().run([1, 2, 3, 4])
    assert ("during", 3) not in steps.said


def test_what_is_logged_beside_is_said_when_the_result_is_taken(caplog):
    log = logging.getLogger("sgm")

    def work():
        log.warning("beside")
        return 5
    with caplog.at_level(logging.WARNING, "sgm"), Background() as background:
        started = background.start(work)
        while not started.is_done():
            time.sleep(0.001)
        log.warning("here")
        assert caplog.messages == ["here"]
        assert started.result() == 5 and caplog.messages == ["here", "beside"]


def test_nobody_waits_for_the_background(tmp_path):
    """`ops.wait` waits for the threads that compute, not for those of the host's work."""
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "stat").write_text("77 (python) R 1 2")
    (tmp_path / "77" / "schedstat").write_text("5 7 1")
    assert device._others_work({}, tmp_path) == (True, {"77": (5, 1)})
    with Background() as background:
        number = background.start(threading.get_native_id).result()
        assert THREADS == {str(number)}
        (tmp_path / "77").rename(tmp_path / str(number))
        assert device._others_work({}, tmp_path) == (False, {})
