"""Conversion of checkpoints from the command line, both ways."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli

from autoencoder import Music2LatentAutoencoder
from autoencoder.conversion import UNUSED
from scripts.convert_music2latent import ConversionConfig, main

ROOT = Path(__file__).resolve().parents[2]
SHAPES = json.loads((ROOT / "tests" / "parity" / "state_dict_shapes.json").read_text())
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A training checkpoint of the published size: raw weights all 1, averaged ones a number for each tensor."""
    raw = {name: torch.ones(()).expand(shape) for name, shape in SHAPES.items()}
    averaged = [torch.tensor(place / 1024).expand(shape) for place, shape in enumerate(SHAPES.values())]
    torch.save({"gen_state_dict": raw, "ema_state_dict": {"shadow_params": averaged}}, tmp_path / "training.pt")
    return tmp_path / "training.pt"


@pytest.fixture
def codec_dir(codec: Music2LatentAutoencoder, tmp_path: Path) -> Path:
    codec.save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def remove_weights(*folders: Path) -> None:
    """Leave no 230 MB files behind."""
    for folder in folders:
        for path in (folder / WEIGHTS, folder / "music2latent.pt"):
            path.unlink(missing_ok=True)


def test_a_checkpoint_becomes_a_codec_folder_and_a_checkpoint_again(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = main(ConversionConfig(checkpoint=checkpoint, output_dir=tmp_path / "codec", use_ema=True))
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "the averaged weights of `training.pt`" in card
    assert stat.S_IMODE((folder / WEIGHTS).stat().st_mode) == 0o644
    codec = Music2LatentAutoencoder.from_pretrained(folder)
    assert codec.config.codec_id == codec.fingerprint()

    back = main(ConversionConfig(autoencoder=folder, output_dir=tmp_path / "original"))
    card = (back / "README.md").read_text()
    assert "CC BY-NC 4.0" in card
    assert "The settings are the published ones." in card
    written = torch.load(back / "music2latent.pt", weights_only=True)
    assert list(written) == ["gen_state_dict"]
    assert list(written["gen_state_dict"]) == list(SHAPES)
    for place, (name, tensor) in enumerate(written["gen_state_dict"].items()):
        assert (tensor == (0 if UNUSED.fullmatch(name) else place / 1024)).all(), name
    remove_weights(folder, back)


def test_a_codec_of_another_size_is_written_with_its_settings(
    codec: Music2LatentAutoencoder, codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = main(ConversionConfig(autoencoder=codec_dir, output_dir=tmp_path / "original"))
    output = capsys.readouterr().out
    assert "Not the published architecture" in output
    assert "'channels': (4, 8, 8)" in output
    assert "sample_rate" not in output
    assert "'channels': (4, 8, 8)" in (folder / "README.md").read_text()
    written = torch.load(folder / "music2latent.pt", weights_only=True)["gen_state_dict"]
    for name, tensor in codec.to_original_state_dict().items():
        assert torch.equal(written[name], tensor), name


def test_nothing_is_overwritten(codec_dir: Path) -> None:
    before = sorted(codec_dir.iterdir())
    with pytest.raises(FileExistsError, match=r"codec is not empty; delete it or name another folder"):
        main(ConversionConfig(autoencoder=codec_dir, output_dir=codec_dir))
    assert sorted(codec_dir.iterdir()) == before


def test_a_bad_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(ValueError, match="cannot read"):
        main(ConversionConfig(checkpoint=tmp_path / "page.pt", output_dir=tmp_path / "codec"))
    assert not (tmp_path / "codec").exists()


def test_a_folder_that_is_no_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a codec folder, but there is no config\.json in .*missing"):
        main(ConversionConfig(autoencoder=tmp_path / "missing", output_dir=tmp_path / "original"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got checkpoint=None, autoencoder=None"),
        ({"checkpoint": Path("a.pt"), "autoencoder": Path("b")}, r"got checkpoint=a\.pt, autoencoder=b"),
        ({"autoencoder": Path("b"), "use_ema": True}, "use_ema chooses among the weights of a checkpoint"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConversionConfig(output_dir=Path("out"), **arguments)


def test_the_command_line_is_understood() -> None:
    arguments = ["--checkpoint", "training.pt", "--use_ema", "true", "--output_dir", "out"]
    config = auto_cli(ConversionConfig, args=arguments, as_positional=False)
    assert config == ConversionConfig(checkpoint=Path("training.pt"), use_ema=True, output_dir=Path("out"))


def test_the_script_runs_on_its_own(codec_dir: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "convert_music2latent.py"
    command = [sys.executable, script, "--autoencoder", codec_dir, "--output_dir", tmp_path / "original"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "original" / "music2latent.pt").is_file()
