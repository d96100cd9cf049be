"""Which frames are generated together, and which are kept."""

import pytest
import torch

from pipelines.windows import final_frames, known_frames, plan_windows


def known(num_frames: int, *runs: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(num_frames, dtype=torch.bool)
    for first, last in runs:
        mask[first:last] = True
    return mask


def follow(is_known: torch.Tensor, windows: list[torch.Tensor]) -> list[int]:
    """Known frames that each window sees when its turn comes; checks that everything gets generated."""
    is_known, seen = is_known.clone(), []
    for window in windows:
        seen.append(int(is_known[window].sum()))
        assert seen[-1] < len(window), "a window with nothing to do"
        is_known[window] = True
    assert is_known.all()
    return seen


def test_what_fits_is_generated_at_once():
    [window] = plan_windows(known(30, (3, 5)), 30)
    assert window.tolist() == list(range(30))


def test_nothing_is_generated_where_everything_is_known():
    assert plan_windows(known(30, (0, 30)), 20) == []


@pytest.mark.parametrize("num_frames", [41, 57, 100, 400])
def test_windows_of_a_long_piece_see_at_least_a_quarter_of_what_was_before(num_frames):
    windows = plan_windows(known(num_frames), 40)
    seen = follow(known(num_frames), windows)
    assert seen[0] == 0
    assert min(seen[1:]) >= 10
    assert all(len(window) == 40 for window in windows)
    assert len(windows) == -(-(num_frames - 10) // 30)


def test_a_hole_that_fits_lies_in_the_middle_of_its_window():
    is_known = known(400, (0, 200), (210, 400))
    [window] = plan_windows(is_known, 40)
    assert window[0] == 185
    assert follow(is_known, [window]) == [30]


def test_several_holes_get_a_window_each():
    is_known = known(400, (0, 50), (60, 200), (210, 400))
    assert [int(window[0]) for window in plan_windows(is_known, 40)] == [35, 185]


def test_a_hole_that_just_fits_is_filled_in_two_halves_that_both_see_both_sides():
    is_known = known(200, (0, 80), (110, 200))
    windows = plan_windows(is_known, 40)
    assert [(int(window[0]), int(window[-1])) for window in windows] == [(55, 94), (83, 122)]


def test_what_leads_up_to_known_frames_is_generated_backwards():
    is_known = known(100, (90, 100))
    windows = plan_windows(is_known, 40)
    assert [(int(window[0]), int(window[-1])) for window in windows] == [(60, 99), (30, 69), (0, 39)]
    assert min(follow(is_known, windows)) >= 10


def test_a_loop_of_several_windows_ends_in_sight_of_its_start():
    windows = plan_windows(known(100), 40, loop=True)
    assert min(follow(known(100), windows)[1:]) >= 10
    assert windows[-1].tolist() == [*range(70, 100), *range(10)]


@pytest.mark.parametrize("hole", [(0, 10), (95, 100), (30, 40)])
def test_a_hole_anywhere_in_a_loop_lies_in_the_middle_of_its_window(hole):
    is_known = ~known(100, hole)
    [window] = plan_windows(is_known, 40, loop=True)
    assert follow(is_known, [window]) == [40 - (hole[1] - hole[0])]
    assert int(window[0]) == (hole[0] - (40 - (hole[1] - hole[0])) // 2) % 100


def test_known_frames_of_a_loop_are_seen_from_both_sides():
    is_known = known(100, (45, 55))
    windows = plan_windows(is_known, 40, loop=True)
    assert min(follow(is_known, windows)) >= 10
    assert set(windows[-1].tolist()) & set(range(45, 55))


def test_the_first_frame_of_a_loop_hangs_on_the_last_samples():
    is_kept = torch.ones(100, dtype=torch.bool)
    is_kept[97:] = False
    assert known_frames(is_kept, 10, 10, 4, loop=True).tolist() == [False, *[True] * 8, False]
    assert known_frames(is_kept, 10, 10, 4).tolist() == [*[True] * 9, False]


def test_frames_are_kept_if_no_sample_of_them_changes():
    is_kept = torch.ones(100, dtype=torch.bool)
    is_kept[30:41] = False
    # frame i is made of the samples 10 * i - 4 to 10 * i + 10
    assert known_frames(is_kept, 11, 10, 4).tolist() == [True] * 3 + [False] * 2 + [True] * 6


def test_frames_beyond_the_end_follow_the_last_sample():
    is_kept = torch.ones(20, dtype=torch.bool)
    assert known_frames(is_kept, 4, 10, 4).all()
    is_kept[19] = False
    assert known_frames(is_kept, 4, 10, 4).tolist() == [True, False, False, False]


def test_frames_are_final_up_to_the_first_that_is_not_known():
    assert final_frames(known(10, (0, 4), (6, 10))) == 4
    assert final_frames(known(10, (0, 10))) == 10
    assert final_frames(known(10)) == 0
