"""Builds the folder of a layer or a function: locked libraries, our code, compiled files.

Standard library only: `sam build` runs it before anything is installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.aws.bytecode import CompileError, compile_folder

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "3.13"
# 1980, where a zip's calendar begins.
EPOCH_S = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))


@dataclass(frozen=True, slots=True)
class Layer:
    """What goes into a layer: `package` of the lock file without what `without` brings along."""

    package: str
    extra: str | None = None
    without: str | None = None
    source: str | None = None
    files: tuple[str, ...] = ()


LAYERS = {
    "runtime": Layer("lambda-stream", source="runtime", files=("lambda-stream",)),
    "core": Layer("lambent", source="core"),
    "web": Layer("lambent", extra="web", without="lambent"),
    "agents": Layer("lambent-agents", without="lambent", source="agents"),
}
# What the managed runtime brings itself; a second copy only costs size and start time.
FROM_RUNTIME = {"awslambdaric", "boto3", "botocore", "s3transfer", "simplejson", "urllib3"}
# What libraries ask for and none of our functions uses: MCP's for its server, which alone brings
# `click`; and where httpx finds that, it imports it for its command at every cold start.
UNUSED = {"click", "uvicorn"}
_DROPPED_SUFFIXES = {".pyi", ".pyx", ".pxd", ".c", ".h", ".cpp", ".pyc", ".a"}
_DROPPED_NAMES = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_cache.json",
    "py.typed",
}
_DROPPED_FOLDERS = {"tests", "test", "__pycache__", "bin"}


class BuildError(Exception):
    """The layer cannot be built; the message says what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help=f"{', '.join(LAYERS)}, or a function's logical id")
    parser.add_argument("--platform", required=True, help="as `uv pip install` names it")
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    try:
        if given.name in LAYERS:
            build_layer(given.name, platform=given.platform, into=given.into)
        else:
            build_function(given.name.lower(), into=given.into)
    except (BuildError, CompileError) as error:
        sys.exit(f"{given.name}: {error}")


def build_layer(name: str, *, platform: str, into: Path) -> None:
    """Fill `into` with the layer `name`; the same inputs give the same bytes."""
    layer = LAYERS[name]
    python = into / "python"
    shutil.rmtree(python, ignore_errors=True)
    python.mkdir(parents=True)
    wanted = _locked(layer.package, layer.extra)
    if layer.without:
        wanted = {k: v for k, v in wanted.items() if k not in _locked(layer.without, None)}
    wanted = {k: v for k, v in wanted.items() if k not in FROM_RUNTIME | UNUSED}
    if wanted:
        _install(wanted, platform=platform, into=python)
    _strip(python)
    if layer.source:
        _copy_source(ROOT / "layers" / layer.source / "src", python)
        for file in layer.files:
            shutil.copy(ROOT / "layers" / layer.source / file, into / file)
    if name == "core":  # read by lambent.first_aid, where a function starts
        (python / "lambent/built-for").write_text(platform.partition("-")[0] + "\n")
    said = compile_folder(python, version=PYTHON, shown_as="/opt/python")
    _level(into)
    size = sum(path.stat().st_size for path in _files(into))
    print(f"layer {name}: {len(wanted)} libraries, {size / 1e6:.1f} MB, {platform}, {said}")


def build_function(name: str, *, into: Path) -> None:
    """Fill `into` with the files of functions/`name`, compiled."""
    _copy_source(ROOT / "functions" / name, into)
    said = compile_folder(into, version=PYTHON, shown_as="/var/task")
    _level(into)
    print(f"function {name}: {said}")


def _locked(package: str, extra: str | None) -> dict[str, str]:
    """The lock file's requirements of a workspace package: name to its lines with hashes."""
    command = ["uv", "export", "--frozen", "--package", package, "--no-dev", "--no-emit-workspace"]
    command += ["--no-header", "--no-annotate", *(["--extra", extra] if extra else [])]
    listed = _run(command, cwd=ROOT)
    blocks = re.split(r"\n(?=\S)", listed.strip())
    return {_name(block): block for block in blocks if block}


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if not found:
        raise BuildError(f"`uv export` gave a line that names no package: {requirement[:80]!r}")
    return found[0].lower()


def _install(wanted: dict[str, str], *, platform: str, into: Path) -> None:
    listed = "\n".join(wanted[name] for name in sorted(wanted)) + "\n"
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-platform", platform, "--python-version", PYTHON, "--link-mode", "copy"]
    command += ["--target", str(into), "--requirements", "-"]
    _run(command, cwd=ROOT, text=listed)


def _run(command: list[str], *, cwd: Path, text: str | None = None) -> str:
    # The virtual environment of whoever called us has no say in what a layer holds.
    environ = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(
        command, cwd=cwd, env=environ, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"`{' '.join(command[:3])}` failed:\n{done.stderr.strip()}")
    return done.stdout


def _strip(folder: Path) -> None:
    """Drop what no function imports: tests, stubs, sources of extensions, console scripts."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if path.name in _DROPPED_FOLDERS:
                shutil.rmtree(path)
        elif path.suffix in _DROPPED_SUFFIXES or path.name in _DROPPED_NAMES:
            path.unlink(missing_ok=True)
    for lock in folder.glob(".lock"):
        lock.unlink()


def _copy_source(source: Path, into: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "py.typed", "*.egg-info")
    if not source.is_dir():
        raise BuildError(f"there is no folder {source.relative_to(ROOT)}")
    shutil.copytree(source, into, dirs_exist_ok=True, ignore=ignored)


def _level(folder: Path) -> None:
    """The same times and modes whoever builds, when, and under whatever umask: zip files keep both,
    and a function's user must be able to read what a careful builder keeps for itself."""
    for path in [*folder.rglob("*"), folder]:
        runnable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if runnable else 0o644)
        os.utime(path, (EPOCH_S, EPOCH_S))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
