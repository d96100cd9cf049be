"""This process among those that run a script together."""

from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

LONGEST_WAIT = timedelta(hours=12)  # while one process encodes all captions, or a shard; torch's own is ten minutes


def process_state() -> PartialState:
    """Rank, number of processes and device, as ``accelerate launch`` or torchrun have set them.

    Of the CPU ``PartialState`` has to be told; only ``Accelerator`` looks for ACCELERATE_USE_CPU itself.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=LONGEST_WAIT)
