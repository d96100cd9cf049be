"""Checkpoints in the published layout: every tensor in its place, both ways, and a message for each that is not."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from autoencoder import Music2LatentAutoencoder
from autoencoder.conversion import (
    UNUSED,
    averaged_state_dict,
    from_original_state_dict,
    read_original_checkpoint,
    to_original_state_dict,
)

State = dict[str, torch.Tensor]
PARITY = Path(__file__).parents[1] / "parity"
SHAPES = {name: tuple(shape) for name, shape in json.loads((PARITY / "state_dict_shapes.json").read_text()).items()}


@pytest.fixture(scope="module")
def published() -> Music2LatentAutoencoder:
    """A codec of the published size."""
    return Music2LatentAutoencoder().eval()


@pytest.fixture(scope="module")
def reference_weights() -> State:
    spec = importlib.util.spec_from_file_location("reference", PARITY / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    return reference.reference_weights(seed=11)


@pytest.fixture
def state(codec: Music2LatentAutoencoder) -> State:
    """Published state dict of a tiny codec."""
    return {name: tensor.clone() for name, tensor in codec.to_original_state_dict().items()}


@pytest.fixture
def training_checkpoint(state: State) -> dict:
    return {"gen_state_dict": state, "ema_state_dict": {"shadow_params": [tensor + 1 for tensor in state.values()]}}


def save(checkpoint: object, folder: Path) -> Path:
    torch.save(checkpoint, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def flat(values: Callable[[int], float]) -> State:
    """A published state dict of full size, one number per tensor, that takes no space in memory or in a file."""
    return {name: torch.tensor(values(k)).expand(shape) for k, (name, shape) in enumerate(SHAPES.items())}


def test_names_their_order_and_shapes_are_the_published_ones(published: Music2LatentAutoencoder) -> None:
    exported = published.to_original_state_dict()
    assert [(name, tuple(tensor.shape)) for name, tensor in exported.items()] == list(SHAPES.items())


def test_the_published_weights_come_back_bit_by_bit(
    published: Music2LatentAutoencoder, reference_weights: State
) -> None:
    published.load_state_dict(from_original_state_dict(reference_weights, published))
    exported = published.to_original_state_dict()
    unused = [name for name in exported if UNUSED.fullmatch(name)]
    assert len(unused) == 8
    for name, tensor in exported.items():
        assert torch.equal(tensor, torch.zeros_like(tensor) if name in unused else reference_weights[name]), name


def test_a_codec_of_any_size_comes_back(codec: Music2LatentAutoencoder, state: State) -> None:
    back = from_original_state_dict(state, codec)
    assert back.keys() == codec.state_dict().keys()
    for name, tensor in codec.state_dict().items():
        assert torch.equal(back[name], tensor), name


def test_exported_tensors_have_the_precision_of_the_codec(codec: Music2LatentAutoencoder) -> None:
    exported = to_original_state_dict(codec.to(torch.bfloat16))
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}


def test_a_checkpoint_becomes_a_codec_with_its_fingerprint(tmp_path: Path) -> None:
    original = flat(lambda place: place / 1024)
    path = save({"gen_state_dict": original}, tmp_path)
    loaded = Music2LatentAutoencoder.from_original_checkpoint(path)
    assert not loaded.training
    assert loaded.config.codec_id == loaded.fingerprint()
    assert_close(loaded.denoiser.conv_out.bias[0], original["conv_out.bias"][0], rtol=0, atol=0)


def test_the_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    raw, averaged = flat(lambda place: 0.0), flat(lambda place: place / 1024)
    ema_state_dict = {"decay": 0.9999, "shadow_params": list(averaged.values()), "collected_params": None}
    path = save({"gen_state_dict": raw, "ema_state_dict": ema_state_dict, "it": 800_000}, tmp_path)
    exported = Music2LatentAutoencoder.from_original_checkpoint(path, use_ema=True).to_original_state_dict()
    for name, tensor in exported.items():
        assert torch.equal(tensor, raw[name] if UNUSED.fullmatch(name) else averaged[name]), name


def test_the_raw_weights_are_taken_by_default(training_checkpoint: dict, state: State, tmp_path: Path) -> None:
    raw = read_original_checkpoint(save(training_checkpoint, tmp_path))
    for name, tensor in state.items():
        assert torch.equal(raw[name], tensor), name


def test_averaged_weights_have_the_names_of_their_own_file(state: State) -> None:
    shuffled = dict(reversed(state.items()))
    averaged = averaged_state_dict(shuffled, [tensor + 1 for tensor in shuffled.values()])
    for name, tensor in state.items():
        assert torch.equal(averaged[name], tensor + 1), name


@pytest.mark.parametrize("ema_state_dict", [{}, {"ema_state_dict": None}, {"ema_state_dict": {"decay": 0.9999}}])
def test_averaged_weights_that_are_not_there_are_an_error(state: State, ema_state_dict: dict, tmp_path: Path) -> None:
    path = save({"gen_state_dict": state} | ema_state_dict, tmp_path)
    message = r"needs an entry 'ema_state_dict' with 'shadow_params', but .*checkpoint\.pt has \['gen_state_dict'"
    with pytest.raises(ValueError, match=message):
        Music2LatentAutoencoder.from_original_checkpoint(path, use_ema=True)


def test_too_few_averaged_tensors_are_an_error(training_checkpoint: dict, state: State, tmp_path: Path) -> None:
    del training_checkpoint["ema_state_dict"]["shadow_params"][-1]
    message = f"{len(state)} tensors in gen_state_dict need as many shadow_params, got {len(state) - 1}"
    with pytest.raises(ValueError, match=message):
        read_original_checkpoint(save(training_checkpoint, tmp_path), use_ema=True)


def test_a_misshapen_averaged_tensor_is_named(training_checkpoint: dict, state: State, tmp_path: Path) -> None:
    training_checkpoint["ema_state_dict"]["shadow_params"][list(state).index("conv_out.bias")] = torch.ones(7)
    message = r"do not follow the order of gen_state_dict: misshapen \['conv_out\.bias is \(7,\) instead of \(2,\)'\]"
    with pytest.raises(ValueError, match=message):
        read_original_checkpoint(save(training_checkpoint, tmp_path), use_ema=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emb_proj.0.weight": None}, r"missing \['emb_proj\.0\.weight'\], unexpected nothing, misshapen nothing"),
        ({"decoder.surprise": torch.ones(1)}, r"missing nothing, unexpected \['decoder\.surprise'\]"),
        ({"conv_out.bias": torch.ones(7)}, r"misshapen \['conv_out\.bias is \(7,\) instead of \(2,\)'\]"),
        (
            {"decoder.bottleneck_layers.0.proj_emb.bias": torch.ones(3)},
            r"misshapen \['decoder\.bottleneck_layers\.0\.proj_emb\.bias is \(3,\) instead of \(16,\)'\]",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    codec: Music2LatentAutoencoder, state: State, changes: dict, message: str
) -> None:
    damaged = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        from_original_state_dict(damaged, codec)


@pytest.mark.parametrize(
    ("content", "entries"), [({"model": {}, "it": 1}, r"\['model', 'it'\]"), ([torch.ones(1)], "list")]
)
def test_a_file_that_is_no_published_checkpoint_is_refused(content: object, entries: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"not a published Music2Latent checkpoint: no entry .*, got {entries}"):
        Music2LatentAutoencoder.from_original_checkpoint(save(content, tmp_path))


@pytest.mark.parametrize("content", [b"<!doctype html>", b"version https://git-lfs", b"hello", b""])
def test_a_text_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_bytes(content)
    message = rf"cannot read .*text\.pt: .*got one that starts with {content[:16]!r} or is cut off; download it again"
    with pytest.raises(ValueError, match=message):
        Music2LatentAutoencoder.from_original_checkpoint(tmp_path / "text.pt")


def test_a_download_that_was_cut_off_is_refused(training_checkpoint: dict, tmp_path: Path) -> None:
    path = save(training_checkpoint, tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"starts with b'PK.* or is cut off; download it again"):
        read_original_checkpoint(path)


def test_a_checkpoint_that_could_run_code_is_refused(state: State, tmp_path: Path) -> None:
    path = save({"gen_state_dict": state, "config": zipfile.ZipInfo()}, tmp_path)
    with pytest.raises(ValueError, match=r"only tensors and plain containers, got UnpicklingError"):
        read_original_checkpoint(path)


def test_another_zip_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=r"cannot read .*other\.zip: .* got RuntimeError"):
        read_original_checkpoint(tmp_path / "other.zip")
