"""Train the bundled demo model: music, codec, latents, transformer, pipeline; made for 30 minutes of one large GPU.

    sh scripts/train_demo.sh --minutes 9

Run the same command again until it says that everything is finished; it goes on where it stopped. On a machine without
a network, ``demo_kit/demo_kit.tar.xz`` (scripts/pack_demo_kit.py makes it) brings what is needed. A rehearsal of
everything at a hundredth of the scale, on a CPU: ``sh scripts/train_demo.sh --scale 0.01 --work_dir
outputs/rehearsal``.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo_training import music, stages
from scripts.demo_training.run import DemoTrainingConfig, Run

STAGES: dict[str, Callable[[Run], bool]] = {
    "render": music.render,
    "gather": music.gather,
    "codec": stages.codec,
    "finish rendering": music.finish_rendering,
    "encode": stages.encode,
    "transformer": stages.transformer,
    "export": stages.export,
    "evaluate": stages.evaluate,
}
MIN_SECONDS = 5.0
"""No stage is begun with less time than this."""


def main(config: DemoTrainingConfig) -> bool:
    """Run the stages that are not finished yet. Returns whether all are."""
    run = Run(config)
    try:
        for name, stage in STAGES.items():
            if name in run.report["done"]:
                continue
            if run.left < MIN_SECONDS:
                print(f"the time is over before the stage {name!r}; the same command continues")
                return False
            print(f"== {name}", flush=True)
            began = time.monotonic()
            if not stage(run):
                print(f"the time is over in the stage {name!r}; the same command continues")
                return False
            run.report["done"].append(name)
            run.note()
            print(f"== {name}: {time.monotonic() - began:.0f} s in this call", flush=True)
    finally:
        run.end_background()
        run.note()
        stages.deliver(run)
    print(f"finished: {run / 'model'}")
    return True


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(DemoTrainingConfig, as_positional=False))
