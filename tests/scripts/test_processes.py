"""Two processes train what one trains."""

import contextlib
import json
import os
import random
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from autoencoder.averaging import AveragedWeights
from latent_diffusion import LatentDiT
from latent_diffusion.data import read_shard
from scripts import encode_dataset, train_autoencoder, train_latent_dit
from tests.conftest import TINY_DIT, randomize
from tests.scripts.conftest import WEIGHTS, codec_config, dit_config, encoding_config


def free_port() -> str:
    """A port that is free, outside of the range from which outgoing connections of other tests take theirs."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return str(port)


def as_rank(rank: int, num_processes: int, port: str, log: Path, function, *args) -> None:
    """Run as one of several processes that torchrun would have started."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        function(*args)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.fixture
def launch(new_process, tmp_path):
    """Run a function in several processes."""

    def launch(num_processes: int, function, *args) -> None:
        port, logs = free_port(), [tmp_path / f"rank-{rank}.log" for rank in range(num_processes)]
        processes = [
            new_process.Process(target=as_rank, args=(rank, num_processes, port, log, function, *args))
            for rank, log in enumerate(logs)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(150)
        exit_codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert exit_codes == [0] * num_processes, "\n".join(log.read_text()[-3000:] for log in logs)

    return launch


def losses(folder: Path) -> list[float]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.parametrize("training", ["codec", "transformer", "transformer, Muon"])
def test_two_processes_follow_one_and_export_the_same(training, chain, text_encoder_dir, launch, tmp_path):
    settings = {"max_steps": 10, "log_every": 1, "learning_rate": 1e-3, "validate_every": 1000, "report_to": "none"}

    def configure(name: str, batch_size: int):
        changes = settings | {"batch_size": batch_size}
        if training == "codec":
            return codec_config(chain.music, tmp_path / name, **changes)
        changes["optimizer"] = "muon" if training.endswith("Muon") else "adamw"
        return dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path / name, **changes)

    main = train_autoencoder.main if training == "codec" else train_latent_dit.main
    main(configure("one", 8))
    launch(2, main, configure("two", 4))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 10
    assert two == pytest.approx(one, rel=1e-4)
    (exported,) = (tmp_path / "two").glob(f"[at][ur]*/{WEIGHTS}")
    expected = load_file(tmp_path / "one" / exported.relative_to(tmp_path / "two"))
    for name, tensor in load_file(exported).items():
        assert_close(tensor, expected[name], rtol=1e-2, atol=1e-4)


def test_two_processes_encode_what_one_does(chain, launch, tmp_path):
    for name, num_processes in (("one", 1), ("two", 2)):
        config = encoding_config(chain.music / "train", chain.codec, tmp_path / name, items_per_shard=1)
        launch(num_processes, encode_dataset.main, config)
    one, two = (sorted((tmp_path / name).glob("latents-*")) for name in ("one", "two"))
    assert [path.name for path in two] == [path.name for path in one]
    for path, expected in zip(two, one, strict=True):
        (item,), (same,) = read_shard(path)[0], read_shard(expected)[0]
        assert item.record() == same.record()
        assert_close(item.latents, same.latents, rtol=0, atol=0)
    statistics = [(tmp_path / name / "statistics.json").read_text() for name in ("one", "two")]
    assert statistics[0] == statistics[1]
    logs = [(tmp_path / f"rank-{rank}.log").read_text() for rank in range(2)]
    assert all("encoded 2 s of audio" in log for log in logs)


def train_and_export(folder: Path, is_sharded: bool) -> None:
    """Three steps of a transformer, sharded or not; its average is exported, and kept as a checkpoint keeps it."""
    torch.manual_seed(0)
    model = LatentDiT(in_channels=4, **TINY_DIT)
    randomize(model)
    twin = LatentDiT(in_channels=4, **TINY_DIT)
    twin.load_state_dict(model.state_dict())
    if is_sharded:
        torch.distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (2,))
        for block in model.transformer_blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    average = AveragedWeights(model, 0.9, twin if is_sharded else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, text = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 3, 32, generator=generator)
        model(x, torch.tensor([0.3, 0.6]), text, return_dict=False)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()
    state = average.state_dict()
    resumed = AveragedWeights(model, 0.9, twin if is_sharded else None)
    resumed.load_state_dict(state)
    with resumed.in_model() as averaged:
        if not is_sharded or torch.distributed.get_rank() == 0:
            averaged.save_pretrained(folder)
            torch.save(state, folder / "state.pt")


def test_a_sharded_model_is_exported_as_one(launch, tmp_path):
    train_and_export(tmp_path / "whole", False)
    launch(2, train_and_export, tmp_path / "sharded", True)
    expected = load_file(tmp_path / "whole" / WEIGHTS)
    exported = load_file(tmp_path / "sharded" / WEIGHTS)
    assert exported.keys() == expected.keys()
    for name, tensor in exported.items():
        assert_close(tensor, expected[name])
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "sharded")]
    assert_close(states[1]["shadow_params"], states[0]["shadow_params"])
