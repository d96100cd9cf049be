"""Which frames are generated together: the windows of a piece that is longer than what the transformer was trained on.

Pure functions of masks. A frame is *known* when its latents are given or have been generated already.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

OVERLAP = 0.25  # share of a window that is known before; the training keeps 10 to 90 % as context


def plan_windows(
    is_known: Bool[Tensor, " frames"], longest: int, loop: bool = False
) -> list[Int[Tensor, " window_frames"]]:
    """Frame numbers of each window, in the order of their generation; none where everything is known.

    Each window but the first sees what is known beside it, at least a quarter of its length where there is as much. A
    hole that fits between two quarters lies in the middle of its window. What leads up to known frames is generated
    backwards from them. A loop that needs several windows ends with one that sees its start again.

    Args:
        is_known: frames that need no generation.
        longest: frames that the transformer was trained on.
        loop: whether the first frame follows the last.
    """
    num_frames = len(is_known)
    if is_known.all():
        return []
    if num_frames <= longest:
        return [torch.arange(num_frames)]
    if not loop and is_known[-1] and not is_known[0]:
        return [(num_frames - 1 - window).flip(0) for window in plan_windows(is_known.flip(0), longest)]
    starts = (is_known & ~is_known.roll(1)).nonzero()
    if loop and len(starts) and starts[0]:  # the circle is opened where known frames begin: no hole crosses its end
        turn = int(starts[0])
        return [(window + turn) % num_frames for window in plan_windows(is_known.roll(-turn), longest, loop)]
    overlap = max(int(OVERLAP * longest), 1)
    end = num_frames
    if loop:  # windows may reach into the next turn: into known frames as far as they like
        end += longest if is_known[0] else overlap
    is_known, windows = is_known.clone(), []
    while not is_known.all():
        first = int((~is_known).nonzero()[0])
        run = int((~is_known[first:]).long().cumprod(0).sum())
        before = overlap
        if run + 2 * overlap <= longest:
            before = (longest - run) // 2
        elif run + overlap <= longest and first + run < end:  # half now, so that the rest sees both sides
            before = longest - run // 2
        start = min(max(first - before, 0), end - longest)
        windows.append(torch.arange(start, start + longest) % num_frames)
        is_known[windows[-1]] = True
    return windows


def known_frames(
    is_kept: Bool[Tensor, " samples"], num_frames: int, samples_per_latent: int, overlap: int, loop: bool = False
) -> Bool[Tensor, " frames"]:
    """Frames whose audio is kept as a whole.

    Frame i is made of the samples from ``i * samples_per_latent - overlap`` to ``(i + 1) * samples_per_latent``;
    beyond the ends of the piece there is nothing to lose, or, in a loop, its other end.
    """
    num_changed = torch.nn.functional.pad((~is_kept).long().cumsum(0), (1, 0))
    frames = torch.arange(num_frames)
    first = (frames * samples_per_latent - overlap).clamp(0, len(is_kept))
    last = ((frames + 1) * samples_per_latent).clamp(0, len(is_kept))
    # a frame that begins beyond the end hangs on the last samples
    first = torch.minimum(first, torch.tensor(max(len(is_kept) - 1, 0)))
    known = num_changed[last] == num_changed[first]
    known[0] &= not loop or bool(is_kept[-overlap:].all())
    return known


def final_frames(is_known: Bool[Tensor, " frames"]) -> int:
    """Leading frames that are known, and so can be decoded already."""
    return int(is_known.long().cumprod(0).sum())
