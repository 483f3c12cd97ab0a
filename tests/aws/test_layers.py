"""What a real `sam build` puts into the layers: enough, no more, and the same every time."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local.aws import bytecode, layer
from local.aws.base_image import architecture
from local.aws.bytecode import CompileError, compile_folder, find_python
from local.aws.transform import read_template
from tests.aws.conftest import Built
from tests.functions.test_first_invocation import NOWHERE, assert_one_line, first_invocation

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("docker")]
ZIPPED_LIMIT_BYTES = 60_000_000
NOBODY = 65534
UNZIPPED_LIMIT_BYTES = 250_000_000  # Lambda's own
FUNCTIONS: dict[str, Any] = {
    name: body["Properties"]
    for name, body in read_template()["Resources"].items()
    if body["Type"] == "AWS::Serverless::Function"
}


def layers_of(function: str) -> list[str]:
    return [each["Ref"] for each in FUNCTIONS[function]["Layers"]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def zipped_bytes(folder: Path) -> int:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files(folder).items():
            archive.writestr(name, content)
    return len(buffer.getvalue())


def top_level(folders: Iterable[Path]) -> set[str]:
    return {path.name for folder in folders for path in (folder / "python").iterdir()}


def test_the_layers_of_a_function_stay_small(built: Built, report: list[str]) -> None:
    sizes = {each: zipped_bytes(built.folder / each) for each in
             sorted({name for function in FUNCTIONS for name in layers_of(function)})}  # fmt: skip
    for name, size in sizes.items():
        report.append(f"{name}: {size / 1e6:.2f} MB zipped")
    for function in FUNCTIONS:
        total = sum(sizes[name] for name in layers_of(function))
        report.append(f"{function}: {total / 1e6:.2f} MB zipped in all")
        assert total < ZIPPED_LIMIT_BYTES
        unzipped = [files(built.folder / name).values() for name in layers_of(function)]
        assert sum(len(c) for contents in unzipped for c in contents) < UNZIPPED_LIMIT_BYTES


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_a_function_gets_only_what_it_needs(built: Built, function: str) -> None:
    present = top_level(built.folder / each for each in layers_of(function))
    assert {"lambent", "lambent_agents", "mcp", "pymongo", "psycopg"} <= present
    web = {"fastapi", "jinja2", "mangum", "pygal"}
    assert present & web == (web if function == "Gateway" else set())
    assert not present & {"boto3", "botocore", "awslambdaric", "click", "uvicorn", "pytest", "bin"}


def test_the_streaming_runtime_can_be_started_where_the_template_says(built: Built) -> None:
    script = built.folder / "RuntimeLayer" / "lambda-stream"
    assert script.stat().st_mode & 0o111 == 0o111
    assert (built.folder / "RuntimeLayer/python/lambda_stream/__main__.py").exists()


def test_every_module_is_compiled_for_the_target(built: Built) -> None:
    for folder in built.folder.iterdir():
        names = set(files(folder)) if folder.is_dir() else set()
        for name in (n for n in names if n.endswith(".py")):
            path = Path(name)
            compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc"
            assert str(compiled) in names
            flags = (folder / compiled).read_bytes()[4:8]
            assert flags == b"\x01\0\0\0"  # PEP 552: by hash, never checked


def test_no_trace_of_this_machine_is_in_a_layer(built: Built) -> None:
    here = str(layer.ROOT).encode()
    for name in ("CoreLayer", "WebLayer", "AgentsLayer", "RuntimeLayer", "Chat"):
        traced = [n for n, content in files(built.folder / name).items() if here in content]
        assert not traced


def test_two_builds_are_the_same(built: Built, tmp_path: Path, report: list[str]) -> None:
    """Every layer and function, bytes, modes and times: what `sam build` made, made once more."""
    platform = (layer.ROOT / f"local/aws/targets/{architecture()}/platform").read_text().strip()
    layers = {f"{name.title()}Layer": name for name in layer.LAYERS}

    def build(artifact: str) -> None:
        into = tmp_path / artifact
        if artifact in layers:
            layer.build_layer(layers[artifact], platform=platform, into=into)
        else:
            layer.build_function(artifact.lower(), into=into)

    made = sorted([*layers, *FUNCTIONS])
    assert made == sorted(path.name for path in built.folder.iterdir() if path.is_dir())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(build, made))
    for artifact in made:
        first, second = seal(built.folder / artifact), seal(tmp_path / artifact)
        report.append(f"{artifact}: {first[0]}, and again {second[0]}")
        assert first == second


@pytest.mark.parametrize("name", ["runtime", "agents", "chat"])
def test_a_build_is_the_same_under_another_umask(name: str, tmp_path: Path) -> None:
    platform = (layer.ROOT / f"local/aws/targets/{architecture()}/platform").read_text().strip()
    seals = []
    for mask in (0o022, 0o077):
        into = tmp_path / f"{mask:o}"
        before = os.umask(mask)
        try:
            into.mkdir()
            if name in layer.LAYERS:
                layer.build_layer(name, platform=platform, into=into)
            else:
                layer.build_function(name, into=into)
        finally:
            os.umask(before)
        seals.append(seal(into))
    assert seals[0] == seals[1]


def seal(folder: Path) -> tuple[str, dict[str, str]]:
    """The hash of all, and of each file with what a zip file keeps of it."""
    files = {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*"))
             if path.is_file()}  # fmt: skip
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16], files


def digest(path: Path) -> str:
    status = path.stat()
    kept = f"{status.st_mode:o} {status.st_mtime_ns} ".encode()
    return hashlib.sha256(kept + path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The layers of our code, built for the processor that this machine has not."""
    folder = tmp_path_factory.mktemp("other")
    other = {"arm64": "x86_64", "x86_64": "aarch64"}[architecture()]
    for name in ("core", "web"):
        layer.build_layer(name, platform=f"{other}-manylinux_2_28", into=folder / name)
    return {name: folder / name / "python" for name in ("core", "web")}


def test_the_other_processor_s_files_are_the_other_processor_s(others: dict[str, Path]) -> None:
    machines = {
        path.read_bytes()[18:20] for path in others["core"].rglob("*.so") if path.is_file()
    }  # the ELF header's e_machine
    assert machines == {{"arm64": b"\x3e\0", "x86_64": b"\xb7\0"}[architecture()]}


@pytest.mark.parametrize("function", ["setup", "chat", "gateway", "step", "deliver", "poller"])
def test_a_layer_of_the_other_processor_is_named_by_the_first_invocation(
    function: str, others: dict[str, Path]
) -> None:
    """Setup's is a deployment's first of all, and a deploy ends with what it says."""
    python = find_python("3.13")
    if python is None:
        pytest.skip("no Python 3.13 was found")
    layers = os.pathsep.join(map(str, others.values()))
    said, log = first_invocation(function, NOWHERE, python=python, core=layers)
    assert_one_line(said, log, "another processor", "the same Architecture")


def test_without_the_target_s_python_its_image_compiles(
    lambda_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.py").write_text("answer = 42\n")
    if os.geteuid() == 0:  # as if somebody else built
        os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.setattr("local.aws.bytecode.find_python", lambda version: None)
    assert lambda_image in compile_folder(tmp_path, version="3.13", shown_as="/opt/python")
    compiled = tmp_path / "__pycache__/one.cpython-313.pyc"
    assert compiled.stat().st_uid == tmp_path.stat().st_uid


DOCKER = """#!/bin/sh
case "$1" in
  pull) shift $(($# - 1)); [ -e "{folder}/registry" ] && echo "$1" >>"{folder}/images" ;;
  images) cat "{folder}/images" ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Docker without images, and no Python 3.13 anywhere; a file `registry` makes it pull."""
    program = tmp_path / "docker"
    program.write_text(DOCKER.format(folder=tmp_path))
    program.chmod(0o755)
    (tmp_path / "images").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("local.aws.bytecode.find_python", lambda version: None)
    return tmp_path


def test_the_image_is_pulled_where_docker_has_none(docker: Path) -> None:
    (docker / "registry").touch()
    assert bytecode._find_image("3.13") == "public.ecr.aws/lambda/python:3.13"


def test_a_build_that_nothing_can_compile_fails_and_says_what_to_do(docker: Path) -> None:
    with pytest.raises(CompileError, match=r"uv python install 3\.13.*LAMBENT_UNCOMPILED=true"):
        compile_folder(docker, version="3.13", shown_as="/opt")


def test_a_layer_that_is_not_compiled_on_purpose_says_so_loudly(
    docker: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMBENT_UNCOMPILED", "true")
    assert compile_folder(docker, version="3.13", shown_as="/opt") == "NOT COMPILED"
    assert "WITHOUT compiled files" in capfd.readouterr().out


def test_a_python_that_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert find_python("3.13") != str(shim)
