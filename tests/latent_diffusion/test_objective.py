"""The training objective: items that do not see each other, conditions that are dropped together, a perfect model."""

import pytest
import torch
from torch.testing import assert_close

from autoencoder.random_numbers import BatchDraws
from latent_diffusion import LatentDiT
from latent_diffusion.objective import FlowObjective
from tests.conftest import TINY_DIT, randomize

TEXT_WIDTH = 32
EVERYTHING_GIVEN = {
    "unconditional_probability": 0.0,
    "text_dropout": 0.0,
    "number_dropout": 0.0,
    "context_probability": 0.0,
}


def item(seed: int, num_frames: int, num_tokens: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(4, num_frames, generator=generator),
        "text": torch.randn(num_tokens, TEXT_WIDTH, generator=generator),
        "duration": torch.tensor(num_frames / 10),
        "tempo": torch.tensor(100.0 + seed),
        "key": torch.tensor(seed),
        "beats": torch.arange(num_frames) / 6,
    }


def collate(items: list[dict[str, torch.Tensor]], num_frames: int = 0, num_tokens: int = 0) -> dict[str, torch.Tensor]:
    """Batch, padded with numbers that must not matter, to at least the lengths given."""
    frames = max(num_frames, *(one["latents"].shape[1] for one in items))
    tokens = max(num_tokens, *(len(one["text"]) for one in items))
    batch = {name: torch.stack([one[name] for one in items]) for name in ("duration", "tempo", "key")}
    batch["latents"] = torch.full((len(items), 4, frames), 7.0)
    batch["text"] = torch.full((len(items), tokens, TEXT_WIDTH), 7.0)
    batch["beats"] = torch.full((len(items), frames), 7.0)
    for k, one in enumerate(items):
        batch["beats"][k, : len(one["beats"])] = one["beats"]
        batch["latents"][k, :, : one["latents"].shape[1]] = one["latents"]
        batch["text"][k, : len(one["text"])] = one["text"]
    batch["mask"] = torch.arange(frames) < torch.tensor([[one["latents"].shape[1]] for one in items])
    batch["text_mask"] = torch.arange(tokens) < torch.tensor([[len(one["text"])] for one in items])
    return batch


@pytest.fixture
def model():
    model = LatentDiT(
        in_channels=4, latents_mean=[0.5] * 4, latents_std=[2.0] * 4, max_frames=20, codec_id="tiny", **TINY_DIT
    )
    randomize(model)
    return model


def objective_of(model: LatentDiT, **probabilities: float) -> FlowObjective:
    empty = torch.randn(2, TEXT_WIDTH, generator=torch.Generator().manual_seed(50))
    return FlowObjective(model, empty, **(EVERYTHING_GIVEN | probabilities))


def losses(objective: FlowObjective, batch: dict[str, torch.Tensor], first_seed: int = 0) -> torch.Tensor:
    positions = range(first_seed, first_seed + len(batch["latents"]))
    return objective(batch, BatchDraws(0, positions), progress=0.5)[0].detach()


ITEMS = [item(0, 12, 5), item(1, 20, 1), item(2, 7, 8)]
DEFAULTS = {"unconditional_probability": 0.3, "text_dropout": 0.3, "number_dropout": 0.3, "context_probability": 0.5}


def test_there_is_one_loss_and_one_time_per_item(model):
    values, times = objective_of(model)(collate(ITEMS), BatchDraws(0, range(3)), progress=0.0)
    assert values.shape == times.shape == (3,)
    assert ((times > 0) & (times < 1)).all()


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_the_loss_of_an_item_does_not_depend_on_its_batch(model, seed):
    objective = objective_of(model, **DEFAULTS)
    together = losses(objective, collate(ITEMS), seed)
    alone = [losses(objective, collate([one]), seed + k) for k, one in enumerate(ITEMS)]
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_loss_does_not_depend_on_the_padding(model, probability):
    objective = objective_of(model, context_probability=probability)
    padded = collate(ITEMS[:1], num_frames=20, num_tokens=9)
    assert_close(losses(objective, padded), losses(objective, collate(ITEMS[:1])))


def test_the_same_draws_give_the_same_loss(model):
    objective = objective_of(model, **DEFAULTS)
    assert_close(losses(objective, collate(ITEMS)), losses(objective, collate(ITEMS)), rtol=0, atol=0)


def test_other_draws_give_other_losses(model):
    objective = objective_of(model)
    assert (losses(objective, collate(ITEMS), 10) - losses(objective, collate(ITEMS))).abs().min() > 1e-3


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_every_parameter_gets_a_gradient_whatever_is_dropped(model, probability):
    objective = objective_of(model, **dict.fromkeys(EVERYTHING_GIVEN, probability))
    objective(collate(ITEMS), BatchDraws(0, range(3)), progress=0.0)[0].sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def changed(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    values = [value.to(one[name].dtype) for one in ITEMS]
    if name == "beats":  # one for each frame
        values = [value.expand_as(one["beats"]) for one in ITEMS]
    return collate([one | {name: own} for one, own in zip(ITEMS, values, strict=True)])


CHANGES = {"text": torch.ones(4, TEXT_WIDTH), "tempo": torch.tensor(250.0), "key": torch.tensor(20)}
CHANGES["beats"] = torch.tensor(5.0)
DROPPED_BY = {"text": "text_dropout", "tempo": "number_dropout", "key": "number_dropout", "beats": "beat_dropout"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_condition_that_is_given_matters(model, name):
    objective = objective_of(model)
    difference = losses(objective, changed(name, CHANGES[name])) - losses(objective, collate(ITEMS))
    assert difference.abs().min() > 1e-5


@pytest.mark.parametrize("name", CHANGES)
def test_an_unconditional_item_sees_none_of_the_conditions(model, name):
    objective = objective_of(model, unconditional_probability=1.0)
    assert_close(losses(objective, changed(name, CHANGES[name])), losses(objective, collate(ITEMS)))


@pytest.mark.parametrize("name", CHANGES)
def test_each_condition_can_be_dropped_alone(model, name):
    objective = objective_of(model, **{DROPPED_BY[name]: 1.0})
    assert_close(losses(objective, changed(name, CHANGES[name])), losses(objective, collate(ITEMS)))


def test_the_beats_go_with_the_tempo(model):
    objective = objective_of(model, number_dropout=1.0)
    assert_close(losses(objective, changed("beats", CHANGES["beats"])), losses(objective, collate(ITEMS)))


def test_an_unconditional_item_sees_the_empty_prompt(model):
    dropped, given = objective_of(model, unconditional_probability=1.0), objective_of(model, number_dropout=1.0)
    empty = collate([one | {"text": dropped.empty_prompt} for one in ITEMS])
    assert_close(losses(dropped, collate(ITEMS)), losses(given, empty))


def test_the_length_is_known_even_to_an_unconditional_item(model):
    objective = objective_of(model, unconditional_probability=1.0)
    difference = losses(objective, changed("duration", torch.tensor(99.0))) - losses(objective, collate(ITEMS))
    assert difference.abs().min() > 1e-5


def test_context_is_given_with_its_probability(model):
    with_context, without = objective_of(model, context_probability=1.0), objective_of(model)
    assert (losses(with_context, collate(ITEMS)) - losses(without, collate(ITEMS))).abs().min() > 1e-5


class PerfectModel(LatentDiT):
    """Knows the data, so that it can tell the velocity from the noisy latents and the time."""

    x0: torch.Tensor

    def forward(self, hidden_states, timestep, *_, **__):
        return ((hidden_states - self.x0) / timestep[:, None, None],)


def test_a_perfect_model_has_no_loss():
    model = PerfectModel(in_channels=4, latents_mean=[0.5] * 4, latents_std=[2.0] * 4, max_frames=20, **TINY_DIT)
    batch = collate(ITEMS)
    model.x0 = model.normalize(batch["latents"]) * batch["mask"][:, None]
    assert_close(losses(objective_of(model), batch), torch.zeros(3), rtol=0, atol=1e-8)


def test_the_model_works_on_normalised_latents(model):
    plain = LatentDiT(in_channels=4, max_frames=20, **TINY_DIT)
    plain.load_state_dict(model.state_dict())
    normalised = collate([one | {"latents": (one["latents"] - 0.5) / 2} for one in ITEMS])
    assert_close(losses(objective_of(plain), normalised), losses(objective_of(model), collate(ITEMS)))
