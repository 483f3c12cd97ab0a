"""Compiles a layer with the target's Python, which makes its functions start in half the time.

A function's folders are read-only, so what is not compiled here is compiled at every cold start.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

IMAGE_NAME = "public.ecr.aws/lambda/python"
# Fixed: the bytes of a compiled file depend on what else its process has compiled.
_SHARDS = 4
# Reads file names; writes each compiled file as if it stood in `shown_as`. Runs on the target's
# Python. "Unchecked hash": never compared with the source, whose time stamps Lambda changes.
_SCRIPT = """
import py_compile, sys
folder, shown_as = sys.argv[1:]
failed = []
for line in sys.stdin:
    name = line.rstrip("\\n")
    try:
        py_compile.compile(
            folder + "/" + name, dfile=shown_as + "/" + name, doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except py_compile.PyCompileError as error:
        failed.append(f"{name}: {error}")
sys.exit("\\n".join(failed) or 0)
"""


# "true" lets a build go on where nothing can compile it.
UNCOMPILED = "LAMBENT_UNCOMPILED"


class CompileError(Exception):
    """A file is no Python of this version, or nothing here compiles for it."""


def compile_folder(folder: Path, *, version: str, shown_as: str) -> str:
    """Compile every module below `folder`; says in a few words what was done.

    With Python `version` where one is found, else inside the Lambda image; where neither can be
    had, not at all if LAMBENT_UNCOMPILED=true says so. Raises `CompileError`.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    if python := find_python(version):
        command, place = [python], str(folder)
        said = f"compiled with {python}"
    elif image := _find_image(version):
        mount = f"{folder}:{shown_as}"
        command = ["docker", "run", "--rm", "-i", "-v", mount, "-e", "PYTHONHASHSEED=0"]
        command += [*_as_owner(folder), "--entrypoint", f"/var/lang/bin/python{version}", image]
        place = shown_as
        said = f"compiled in {image}"
    else:
        image = f"{IMAGE_NAME}:{version}"
        if os.environ.get(UNCOMPILED) != "true":
            raise CompileError(_NOTHING_COMPILES.format(version=version, image=image))
        print(_WARNING.format(version=version), flush=True)
        return "NOT COMPILED"
    shards = [names[index::_SHARDS] for index in range(_SHARDS)]
    running = [_start([*command, "-c", _SCRIPT, place, shown_as]) for _ in shards]
    for process, shard in zip(running, shards, strict=True):
        assert process.stdin is not None
        with process.stdin as names_in:
            names_in.write("".join(f"{name}\n" for name in shard))
        process.stdin = None  # closed; `communicate` must not flush it
    outcomes = [(process, process.communicate()[1]) for process in running]
    for process, errors in outcomes:
        if process.returncode:
            raise CompileError(errors.strip())
    return said


def find_python(version: str) -> str | None:
    """An interpreter of that version that really runs: PATH, uv's, pyenv's."""
    for candidate in _candidates(version):
        probe = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run(
                [candidate, "-I", "-c", probe], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def _candidates(version: str) -> Iterator[str]:
    name = f"python{version}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if found := shutil.which(name, path=folder):
            yield found
    if uv := shutil.which("uv"):
        found_by_uv = subprocess.run(
            [uv, "python", "find", "--no-project", version],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if found_by_uv.returncode == 0:
            yield found_by_uv.stdout.strip()
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(map(str, versions.glob(f"{version}*/bin/{name}")), reverse=True)


def _find_image(version: str) -> str | None:
    """The Lambda image of that Python: one that Docker has here, else pulled now."""
    if not shutil.which("docker"):
        return None
    if found := _image_here(version):
        return found
    subprocess.run(
        ["docker", "pull", "--quiet", f"{IMAGE_NAME}:{version}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return _image_here(version)


def _image_here(version: str) -> str | None:
    listed = subprocess.run(
        ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE_NAME],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [name for name in listed.stdout.split() if f":{version}" in name]
    return min(found, default=None)


def _as_owner(folder: Path) -> list[str]:
    """Else what the container writes is root's, and whoever builds may not touch it any more."""
    asked = ["docker", "info", "--format", "{{.SecurityOptions}}"]
    about = subprocess.run(asked, capture_output=True, text=True, check=False)
    if "rootless" in about.stdout:  # its root is who runs it
        return []
    owner = folder.stat()
    return ["--user", f"{owner.st_uid}:{owner.st_gid}"]


def _start(command: list[str]) -> subprocess.Popen[str]:
    # A fixed seed: sets of constants are written in the order of their hashes.
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("PYTHONPATH", None)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )


_NOTHING_COMPILES = """\
no Python {version} was found (PATH, uv, pyenv), and Docker neither has the image {image} nor \
could pull it. Without compiled files every cold start takes two to three times as long. Install \
one (`uv python install {version}`) or start Docker, and build again; or build without: \
`LAMBENT_UNCOMPILED=true sam build`."""
_WARNING = """\
*** Nothing here compiles for Python {version}, and LAMBENT_UNCOMPILED=true: the layer is built
*** WITHOUT compiled files. Every cold start will take two to three times as long."""
