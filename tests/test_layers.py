"""Imports point downwards: two leaves, one joint, scripts on top."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "autoencoder": set(),
    "latent_diffusion": set(),
    "pipelines": {"autoencoder", "latent_diffusion"},
}


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_downwards(package: str) -> None:
    forbidden = {*MAY_IMPORT, "scripts", "tests"} - {package} - MAY_IMPORT[package]
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        assert forbidden.isdisjoint(imported_packages(path)), path.relative_to(ROOT)


@pytest.mark.parametrize("module", ["consistency", "spectrogram", "layers", "networks", "metrics"])
def test_math_and_networks_know_nothing_of_diffusers(module: str) -> None:
    assert "diffusers" not in set(imported_packages(ROOT / "autoencoder" / f"{module}.py"))


def test_the_wheel_holds_exactly_the_three_packages() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(MAY_IMPORT)
