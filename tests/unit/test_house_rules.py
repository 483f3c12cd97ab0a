"""The house rules that no linter knows: sizes, openings, names, forbidden words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("functions", "layers", "local")
STANDARD = sys.stdlib_module_names
# Script names that the issue of commands and Lambda itself prescribe.
TOP_LEVEL = {
    "functions", "layers", "local", "tests", "template.yaml", "samconfig.toml", "README.md",
    "pyproject.toml", "uv.lock", "LICENSE", "CHANGELOG.md", ".gitignore", ".ci",
}  # fmt: skip


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def python_files(*tops: str) -> list[Path]:
    python = [path for path in tracked() if path.suffix == ".py"]
    return [path for path in python if path.relative_to(ROOT).parts[0] in tops]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", python_files(*SOURCES), ids=name_of)
def test_a_module_has_at_most_450_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize("path", python_files("functions"), ids=name_of)
def test_a_handler_has_at_most_60_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", python_files(*SOURCES, "tests"), ids=name_of)
def test_a_module_opens_with_one_sentence_that_says_its_duty(path: Path) -> None:
    source = path.read_text()
    if not source.strip():
        return
    opening = ast.get_docstring(ast.parse(source))
    assert opening, "no docstring"
    first = opening.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "?", "!")), f"not a sentence: {first!r}"


@pytest.mark.parametrize("path", python_files("layers", "local"), ids=name_of)
def test_a_module_is_named_after_a_duty(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "base"}
    inside_package = (path.parent / "__init__.py").exists()
    assert inside_package or path.stem not in STANDARD


@pytest.mark.parametrize("path", python_files("functions"), ids=name_of)
def test_functions_never_import_each_other(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(a.name.startswith("functions") for a in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert not (node.module or "").startswith("functions")


def test_nothing_machine_specific_is_in_the_tree() -> None:
    # Composed, so that this file does not find itself.
    roots = ("/" + "work/", "/root" + "/(?!" + r"\.ollama)", "/home/" + r"\w+/", r"\.pyenv" + "/")
    forbidden = re.compile("|".join(roots), re.A)
    hits = [
        f"{name_of(path)}:{number}"
        for path in tracked()
        if path.suffix not in {".lock", ".png", ".gz"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not hits


def test_the_top_level_holds_only_what_it_should() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_the_ci_script_is_at_most_ten_lines() -> None:
    assert len((ROOT / ".ci/run").read_text().splitlines()) <= 10
