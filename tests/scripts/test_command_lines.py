"""Every script that reads its settings with jsonargparse has a command line of options, and nothing else."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def config_classes() -> list[tuple[str, str]]:
    """(script, class) of every ``auto_cli(Class, ...)``."""
    found = []
    for path in sorted(SCRIPTS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "auto_cli":
                name = node.args[0]
                if isinstance(name, ast.Name) and name.id[0].isupper():
                    found.append((path.stem, name.id))
    return found


@pytest.mark.parametrize(("script", "name"), config_classes())
def test_settings_have_no_public_methods(script: str, name: str) -> None:
    # jsonargparse takes a public method for a subcommand, and then every call without it is an error
    config = getattr(importlib.import_module(f"scripts.{script}"), name)
    methods = [each for each, _ in inspect.getmembers(config, inspect.isfunction) if not each.startswith("_")]
    assert methods == []


def test_the_scripts_are_found() -> None:
    assert {"train_autoencoder", "train_latent_dit", "prepare_audio", "reconstruct"} <= {
        s for s, _ in config_classes()
    }
