"""Guidance through diffusers' guiders: any of them that asks for a prediction with and without the conditions."""

import logging

from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

DEFAULT_GUIDANCE_SCALE = 7.0


def make_guider(**settings: object) -> BaseGuidance:
    """Classifier-free guidance, without the note about an experimental feature that every guider logs."""
    return _quietly(lambda: ClassifierFreeGuidance(**settings))


def guider_of_call(
    guider: BaseGuidance | None,
    guidance_scale: float | None,
    guidance_rescale: float | None,
    guidance_interval: tuple[float, float] | None,
) -> BaseGuidance:
    """A fresh guider for one call: a copy of the pipeline's with what the call says otherwise.

    Raises:
        ValueError: the guider has no ``guidance_scale``.
    """
    settings: dict[str, object] = {}
    if guidance_scale is not None or guider is None:
        settings["guidance_scale"] = DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale
    if guidance_rescale is not None:
        settings["guidance_rescale"] = guidance_rescale
    if guidance_interval is not None:
        settings["start"], settings["stop"] = guidance_interval
    if guider is None:
        return make_guider(**settings)
    if "guidance_scale" not in guider.config:
        raise ValueError(
            f"the guider {type(guider).__name__} has no guidance_scale, which this pipeline needs; take one that has, "
            "such as ClassifierFreeGuidance or AdaptiveProjectedGuidance"
        )
    return _quietly(lambda: guider.new(**settings))


def set_scale(guider: BaseGuidance, guidance_scale: float) -> None:
    """Scale of the next step; 1 and less are no guidance, as in other pipelines of diffusers.

    A guider of the original formulation counts from 0.
    """
    off = 0.0 if guider.config.get("use_original_formulation") else 1.0
    guider.guidance_scale = max(guidance_scale, off)


def _quietly(make):  # type: ignore[no-untyped-def]
    logger = logging.getLogger("diffusers.guiders.guider_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return make()
    finally:
        logger.setLevel(level)
