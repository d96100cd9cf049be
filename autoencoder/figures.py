"""Pictures of audio: log-mel spectrograms below each other on one scale. Needs matplotlib (extra ``train``)."""

from collections.abc import Mapping

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from autoencoder.metrics import log_mel

DYNAMIC_RANGE = 80.0  # dB below the loudest value of all panels; the rest is drawn black


def spectrogram_figure(waveforms: Mapping[str, Float[Tensor, "channels samples"]], sample_rate: int) -> Figure:
    """One log-mel panel per waveform (its channels averaged), titled by its name, with seconds below."""
    panels = {name: log_mel(waveform.mean(0).cpu(), sample_rate) * 8.686 for name, waveform in waveforms.items()}
    loudest = max(panel.max().item() for panel in panels.values())
    figure = Figure(figsize=(10, 2.4 * len(panels)), layout="constrained")
    for axes, (name, panel) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
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
        axes.set(title=name, ylabel="mel band")
        figure.colorbar(image, ax=axes, label="dB")
    axes.set(xlabel="seconds")
    return figure
