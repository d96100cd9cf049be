"""Basic Pitch, a small network that transcribes any pitched instrument: which notes sound, and which begin.

Source: Bittner et al. 2022, https://arxiv.org/abs/2203.09893; its weights are those of the wheel basic-pitch.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float

SAMPLE_RATE, WINDOW = 22_050, 43_844  # of the published network; a window of 2 s
LOWEST_NOTE = 21  # MIDI number of the first of its 88 notes
OUTPUTS = ("StatefulPartitionedCall:1", "StatefulPartitionedCall:2")  # notes, onsets


class BasicPitch:
    """The network as ONNX, on the CPU.

    Args:
        path: ``nmp.onnx`` of the wheel.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(
        self, waveform: Float[torch.Tensor, " samples"]
    ) -> tuple[Float[np.ndarray, "windows frames 88"], Float[np.ndarray, "windows frames 88"]]:
        """Posteriors that a note sounds, and that it begins, in windows of 2 s every second.

        Shorter audio is repeated; what is left over after the last whole window is not heard.
        """
        if len(waveform) < WINDOW:
            waveform = waveform.repeat(-(-WINDOW // len(waveform)))[:WINDOW]
        windows = waveform.unfold(0, WINDOW, WINDOW // 2)[..., None]
        notes, onsets = self._session.run(list(OUTPUTS), {self._session.get_inputs()[0].name: windows.numpy()})
        return notes, onsets
