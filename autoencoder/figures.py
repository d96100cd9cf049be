"""Pictures of audio: log-mel spectrograms below each other on one scale. Needs matplotlib (extra ``train``)."""

from collections.abc import Mapping

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from autoencoder.metrics import log_mel

DYNAMIC_RANGE = 80.0  # dB below the loudest value of all panels; the rest is drawn black


def spectrogram_figure(
    waveforms: Mapping[str, Float[Tensor, "channels samples"]], sample_rate: int, num_columns: int = 1
) -> Figure:
    """One log-mel panel per waveform (its channels averaged), titled by its name, on one colour scale.

    Args:
        waveforms: by title.
        sample_rate: Hz.
        num_columns: panels beside each other; 1 puts them all below each other.
    """
    panels = {name: log_mel(waveform.mean(0).cpu(), sample_rate) * 8.686 for name, waveform in waveforms.items()}
    loudest = max(panel.max().item() for panel in panels.values())
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(max(10.0, 2.4 * num_columns), 2.4 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for index, (name, panel) in enumerate(panels.items()):
        axes = grid.flat[index]
        seconds = waveforms[name].shape[-1] / sample_rate
        image = axes.imshow(
            panel.numpy(),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, seconds, 0, len(panel)),
            vmin=loudest - DYNAMIC_RANGE,
            vmax=loudest,
        )
        axes.set_title(name)
        axes.set_xlabel("seconds" if index >= len(panels) - num_columns else "")
        axes.set_ylabel("mel band" if index % num_columns == 0 else "")
        if index % num_columns == num_columns - 1 or index == len(panels) - 1:
            figure.colorbar(image, ax=grid[index // num_columns].tolist(), label="dB")
    return figure
