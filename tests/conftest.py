"""Tiny real components and audio made on the fly, shared by all tests."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import jaxtyping
import pytest
import soundfile
import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from pipelines import Music2LatentPipeline

# The models are tiny, and threads that wait for each other on a busy machine are slow.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start

# librosa compiles with numba when it is used first; workers that share its cache have crashed in a fresh environment
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "numba" / WORKER)

SAMPLE_RATE = 44_100
TINY_CODEC = {
    "n_fft": 512,
    "hop_length": 128,
    "channels": (4, 8, 8),
    "frequency_factors": (8, 4),
    "time_factors": (2, 2),
    "attention_heads": (0, 0, 2),
    "num_denoiser_blocks": 1,
    "bottleneck_channels": 16,
    "num_bottleneck_blocks": 1,
    "latent_channels": 4,
    "embedding_dim": 16,
}
TINY_DIT = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32}
WORDS = ("lofi", "piano", "beat", "techno", "slow", "fast", "ambient", "pads", "sine", "low", "high")


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter a value, so that zero-initialised paths take part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5)


def tone(frequency: float, seconds: float, sample_rate: int = SAMPLE_RATE, channels: int = 1) -> torch.Tensor:
    """A sine with a little noise, (channels, samples)."""
    time = torch.arange(round(seconds * sample_rate)) / sample_rate
    noise = torch.randn(channels, len(time), generator=torch.Generator().manual_seed(int(frequency)))
    return 0.3 * torch.sin(2 * torch.pi * frequency * time) + 0.01 * noise


def write_music(folder: Path) -> Path:
    """Captioned tones in AudioFolder layout: ``train`` with four clips of one second, ``test`` with two."""
    for split, frequencies in (("train", (110, 220, 440, 880)), ("test", (330, 660))):
        (folder / split).mkdir(parents=True)
        records = []
        for frequency in frequencies:
            name = f"{frequency}.wav"
            soundfile.write(folder / split / name, tone(frequency, 1.0).T.numpy(), SAMPLE_RATE)
            pitch = "low" if frequency < 400 else "high"
            records.append({"file_name": name, "text": f"{pitch} sine", "tempo": frequency / 4, "key": "A minor"})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    if torch.get_num_threads() != 1:  # libraries of the evaluation raise it, and sums are then made in another order
        torch.set_num_threads(1)


@pytest.fixture
def codec() -> Music2LatentAutoencoder:
    """A codec of a few thousand parameters: 512 samples per latent, 4 channels."""
    model = Music2LatentAutoencoder(**TINY_CODEC, codec_id="tiny").eval()
    randomize(model)
    return model


@pytest.fixture
def transformer() -> LatentDiT:
    """A transformer for the latents of ``codec``, up to a bit more than a second."""
    model = LatentDiT(in_channels=4, latent_rate=SAMPLE_RATE / 512, max_frames=90, codec_id="tiny", **TINY_DIT).eval()
    randomize(model)
    return model


@pytest.fixture(scope="session")
def text_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny BERT with its tokenizer of a dozen words."""
    folder = tmp_path_factory.mktemp("text_encoder")
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(codec: Music2LatentAutoencoder, transformer: LatentDiT, text_encoder_dir: Path) -> Music2LatentPipeline:
    """A whole pipeline of tiny parts."""
    from latent_diffusion.text import load_text_encoder

    tokenizer, text_encoder = load_text_encoder(str(text_encoder_dir))
    pipe = Music2LatentPipeline(codec, transformer, text_encoder, tokenizer, FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def music_dir(tmp_path: Path) -> Path:
    """Captioned tones in AudioFolder layout: ``train`` with four clips of one second, ``test`` with two."""
    return write_music(tmp_path / "music")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run the code, without the type checks of the test run, which would answer before our own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def new_process() -> ForkServerContext:
    """Starts processes that share nothing with the tests; the slow imports are made once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines", "scripts.train_autoencoder", "scripts.train_latent_dit"])
    return context
