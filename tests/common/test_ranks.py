"""What the environment of msrun says, and who makes which jobs."""
import pytest

from sgm.common.errors import InputError
from sgm.common.ranks import Rank, this_rank


def test_without_msrun_everything_is_ours():
    rank = this_rank({"RANK_ID": "1", "DEVICE_ID": "3"})        # some hosts set them for other purposes
    assert rank == Rank() and rank.share([5, 6, 7]) == [5, 6, 7] and rank.device is None
    assert [rank.exit_code(code) for code in (0, 1, 2, 3, 130)] == [0, 1, 2, 3, 130]


def test_shares_are_all_jobs_once():
    ranks = [this_rank({"MS_ROLE": "MS_WORKER", "RANK_ID": f"{number}", "RANK_SIZE": "3", "DEVICE_ID": f"{number % 2}"})
             for number in range(3)]
    assert [rank.share(list(range(8))) for rank in ranks] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [rank.share([0]) for rank in ranks] == [[0], [], []] and [rank.device for rank in ranks] == [0, 1, 0]
    assert [ranks[0].exit_code(code) for code in (0, 1, 2, 3, 130)] == [0, 0, 2, 0, 130]


def test_the_scheduler_makes_nothing():
    assert this_rank({"MS_ROLE": "MS_SCHED", "RANK_ID": "0"}).share([5, 6]) == []


def test_numbers_that_are_not_given():
    with pytest.raises(InputError, match="found no RANK_ID.*give msrun --node_rank"):
        this_rank({"MS_ROLE": "MS_WORKER", "RANK_SIZE": "3", "DEVICE_ID": "0"})
