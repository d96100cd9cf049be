"""Training that starts from trained weights, and options of the training loop, on tiny models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule
from autoencoder.objective import ConsistencyObjective
from autoencoder.optimization import checkpoint_blocks
from autoencoder.random_numbers import BatchDraws
from autoencoder.training import Task, TrainingConfig, Validation, fit
from latent_diffusion import LatentDiT
from scripts import train_autoencoder, train_latent_dit
from tests.conftest import tone
from tests.scripts.conftest import DIT, WEIGHTS, codec_config, dit_config

ACCELERATE = sorted((Path(__file__).parents[2] / "scripts" / "configs" / "accelerate").glob("*.yaml"))


def test_fine_tuning_starts_from_the_weights_and_leaves_a_frozen_encoder_as_it_is(chain, tmp_path):
    config = codec_config(chain.music, tmp_path / "tuned", init_from=chain.codec, freeze_encoder=True, max_steps=2)
    tuned, before = load_file(train_autoencoder.main(config) / WEIGHTS), load_file(chain.codec / WEIGHTS)
    for name, tensor in tuned.items():
        if name.startswith("encoder."):
            assert_close(tensor, before[name], rtol=0, atol=0)
    assert any(not torch.equal(tuned[name], before[name]) for name in tuned if name.startswith("decoder."))
    assert any(not torch.equal(tuned[name], before[name]) for name in tuned if name.startswith("denoiser."))
    folders = chain.codec, tmp_path / "tuned" / "autoencoder"
    old, new = (Music2LatentAutoencoder.from_pretrained(folder).config.codec_id for folder in folders)
    assert old == new  # latents of the old codec fit the new one


def test_a_frozen_encoder_needs_one_and_an_architecture_that_differs_is_an_error(chain, tmp_path):
    with pytest.raises(ValueError, match="freeze_encoder keeps the encoder of a trained codec; give one"):
        codec_config(chain.music, tmp_path, freeze_encoder=True)
    config = codec_config(chain.music, tmp_path, init_from=chain.codec)
    with pytest.raises(ValueError, match="another architecture: latent_channels is 4 there, 5 here"):
        train_autoencoder.main(replace(config, model=config.model | {"latent_channels": 5}))


def test_a_transformer_is_trained_on_from_its_weights(chain, text_encoder_dir, tmp_path):
    config = dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path, init_from=chain.transformer)
    trained = train_latent_dit.main(replace(config, model={}, learning_rate=0.0, final_learning_rate=0.0))
    before = load_file(chain.transformer / WEIGHTS)
    for name, tensor in load_file(trained / WEIGHTS).items():
        assert_close(tensor, before[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"does not fit: text_encoder is .* there, another here; num_layers is 2"):
        train_latent_dit.load_model(
            replace(config, text_encoder="another", model=DIT | {"num_layers": 3}),
            train_latent_dit.LatentClips(chain.latents / "train", 40),
        )


def test_adapters_are_trained_alone_and_saved_as_pipelines_load_them(chain, text_encoder_dir, tmp_path):
    settings = {"init_from": chain.transformer, "lora_rank": 2, "model": {}, "learning_rate": 0.1}
    config = dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path, **settings)
    folder = train_latent_dit.main(config)
    saved = load_file(folder / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in saved} == {"transformer"}
    assert len(saved) == 2 * 2 * 2 * 4  # two blocks, two attentions, four projections, A and B

    plain = LatentDiT.from_pretrained(chain.transformer).eval()
    adapted = LatentDiT.from_pretrained(chain.transformer).eval()
    adapted.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors", prefix="transformer")
    x, text = torch.randn(1, 4, 10), torch.randn(1, 3, 32)
    outputs = [model(x, torch.tensor([0.5]), text, return_dict=False)[0] for model in (plain, adapted)]
    assert not torch.allclose(outputs[0], outputs[1])
    adapted.disable_lora()
    assert_close(adapted(x, torch.tensor([0.5]), text, return_dict=False)[0], outputs[0])


@pytest.mark.parametrize("latents_in", ["memory", "device", "disk"])
def test_where_the_latents_are_has_no_influence(latents_in, chain, text_encoder_dir, tmp_path):
    config = dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path, latents_in=latents_in)
    expected = load_file(chain.transformer / WEIGHTS)
    for name, tensor in load_file(train_latent_dit.main(config) / WEIGHTS).items():
        assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("training", ["codec", "transformer"])
def test_accumulated_gradients_and_recomputed_blocks_change_nothing(training, chain, text_encoder_dir, tmp_path):
    changes = {"batch_size": 1, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    if training == "codec":
        exported = train_autoencoder.main(codec_config(chain.music, tmp_path, **changes))
        expected = load_file(chain.codec / WEIGHTS)
    else:
        exported = train_latent_dit.main(dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path, **changes))
        expected = load_file(chain.transformer / WEIGHTS)
    for name, tensor in load_file(exported / WEIGHTS).items():
        assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)


def test_recomputed_blocks_keep_less_of_the_forward_pass(codec: Music2LatentAutoencoder) -> None:
    batch = {"waveform": tone(300.0, 1.0)[:, : codec.spectrogram.num_samples(64)]}
    kept, gradients = [], []
    for _ in range(2):
        sizes = {}

        def keep(tensor: torch.Tensor, sizes=sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            objective = ConsistencyObjective(codec.train(), GapSchedule())
            loss = objective(batch, BatchDraws(0, [0]), 0.0)[0].mean()
            kept.append(sum(sizes.values()))
        gradients.append(torch.autograd.grad(loss, list(codec.parameters())))
        checkpoint_blocks(codec)
    assert kept[1] < 0.6 * kept[0]
    assert_close(gradients[1], gradients[0])


@pytest.fixture
def new_accelerator():
    """Settings that Accelerate keeps for a whole process can be chosen again."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("new_accelerator")
def test_lower_precision_trains(chain, text_encoder_dir, tmp_path):
    assert train_autoencoder.main(codec_config(chain.music, tmp_path / "codec", mixed_precision="bf16"))
    config = dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path / "dit", mixed_precision="bf16")
    assert train_latent_dit.main(config)


class SometimesInfinite(nn.Module):
    """Mean squared weights as loss; not finite for the items at the positions given."""

    def __init__(self, model: LatentDiT, bad: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.bad = model, bad

    def forward(self, batch: dict, draws: BatchDraws, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss = sum(parameter.square().mean() for parameter in self.model.parameters())
        is_bad = torch.tensor([int(index) in self.bad for index in batch["position"]])
        return loss * torch.where(is_bad, torch.inf, 1.0), torch.zeros(len(is_bad))


class Counting:
    """Items that are the number of draws before them."""

    def __init__(self) -> None:
        self.num_drawn = 0

    def __len__(self) -> int:
        return 1000

    def order(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(1000)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"position": torch.tensor(index)}

    def collate(self, items: list) -> dict[str, torch.Tensor]:
        return {"position": torch.stack([item["position"] for item in items])}


def run_with_bad_items(tmp_path: Path, bad: tuple[int, ...], **changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = LatentDiT(in_channels=4, **DIT)
    config = TrainingConfig(
        output_dir=tmp_path, max_steps=6, warmup_steps=0, batch_size=1, num_workers=0, checkpoint_every=100,
        learning_rate=1e-2, final_learning_rate=1e-2, log_every=1, **changes,
    )  # fmt: skip
    task = Task(
        model=model,
        objective=SometimesInfinite(model, bad),
        optimizer=torch.optim.AdamW(model.parameters()),
        dataset=Counting(),
        validate=lambda model, step: Validation(),
        export=lambda model: tmp_path,
    )
    fit(task, config)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_an_update_that_is_not_finite_is_left_out_and_counted(tmp_path, capsys):
    whole, with_bad = (run_with_bad_items(tmp_path / str(bad), bad) for bad in ((), (1, 4)))
    log = [json.loads(line) for line in (tmp_path / "(1, 4)" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "faults" in entry]
    assert [entry["step"] for entry in steps if "loss" not in entry] == [2, 5]
    assert steps[-1]["faults"] == 2
    assert "2 times: the gradient was not finite; the update was left out" in capsys.readouterr().out
    shorter = torch.stack([(whole[name] - with_bad[name]).abs().max() for name in whole])
    assert all(tensor.isfinite().all() for tensor in with_bad.values())
    assert shorter.max() > 0  # two updates fewer


def test_too_many_updates_that_are_not_finite_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite in 3 steps in a row, the last was step 5"):
        run_with_bad_items(tmp_path, (0, 2, 3, 4), max_bad_updates=3)


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_machines == (4 if "several" in path.stem else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 2}, "lora_rank adapts a trained transformer"),
        ({"lora_rank": 16, "init_from": Path("dit"), "optimizer": "muon"}, "give --optimizer adamw"),
        ({"validation_prompts": []}, "validation_prompts is empty; give at least one"),
    ],
)
def test_settings_that_do_not_go_together_say_what_to_give(changes, message, chain, text_encoder_dir, tmp_path):
    with pytest.raises(ValueError, match=message):
        dit_config(chain.latents, chain.codec, text_encoder_dir, tmp_path, **changes)
