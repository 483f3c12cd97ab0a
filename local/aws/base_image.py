"""Makes a Lambda base image out of Debian, where no image registry is reached.

`python -m local.aws.base_image` prints the image's name. One that is there already, pulled or made
before, is used as it is.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local.aws.commands import WORK, Missing, alone, need, run
from local.aws.docker import running

PYTHON = "3.13"
REPOSITORY = "public.ecr.aws/lambda/python"
DEBIAN = "trixie"  # the release whose Python is 3.13
# What Amazon's image holds in /var/runtime, as far as Python code can tell.
RUNTIME = ("awslambdaric", "boto3", "simplejson", "snapshot-restore-py")
_PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
_BOOTSTRAP = f"""\
#!/bin/sh
export PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}/var/runtime"
set -- /var/lang/bin/python{PYTHON}
[ -z "$AWS_LAMBDA_EXEC_WRAPPER" ] || exec "$AWS_LAMBDA_EXEC_WRAPPER" "$@" /var/runtime/main.py
exec "$@" /var/runtime/main.py
"""
# What AWS's bootstrap does: the function first, the runtime's own libraries last.
_MAIN = f"""\
import os, sys
task_root = os.environ["LAMBDA_TASK_ROOT"]
sys.path[:1] = [task_root, "/opt/python/lib/python{PYTHON}/site-packages", "/opt/python"]
sys.path.append("/var/runtime")
from awslambdaric.__main__ import main
main(["awslambdaric", os.environ["_HANDLER"]])
"""
_SETTINGS = (
    "ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin LANG=C.UTF-8 "
    "LD_LIBRARY_PATH=/var/lang/lib:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib "
    "LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime "
    f"AWS_EXECUTION_ENV=AWS_Lambda_python{PYTHON}",
    "WORKDIR /var/task",
    'ENTRYPOINT ["/lambda-entrypoint.sh"]',
)
_ENTRYPOINT = """\
#!/bin/sh
export _HANDLER="$1"
[ -n "$AWS_LAMBDA_RUNTIME_API" ] || exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
exec /var/runtime/bootstrap
"""
# Nothing of these is needed to run Python, and each build of an image copies all of it.
_SHED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")


def architecture() -> str:
    """This machine's, in Lambda's words."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def image_name() -> str:
    """The name under which `sam local` looks for it."""
    return f"{REPOSITORY}:{PYTHON}-{architecture()}"


def ensure_image() -> str:
    """The image's name; made now unless Docker has it. Raises `Missing`.

    One that was made here out of another recipe is made anew; a pulled one is left alone.
    """
    name = image_name()
    recipe = "".join((DEBIAN, _BOOTSTRAP, _MAIN, _ENTRYPOINT, *RUNTIME, *_SETTINGS))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with alone("image"):
        if _label(name) not in (digest, _PULLED):
            _make(name, digest)
    return name


_PULLED = "pulled"


def _label(name: str) -> str | None:
    """The recipe of an image of that name, `_PULLED` if it is not ours, None without one."""
    shown = subprocess.run(
        ["docker", "inspect", "--format", '{{index .Config.Labels "lambent.recipe"}}', name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (shown.stdout.strip() or _PULLED) if shown.returncode == 0 else None


def _make(name: str, digest: str) -> None:
    need("debootstrap", "tar", "uv")
    if os.geteuid() != 0:
        raise Missing(f"there is no image {name}, and debootstrap makes one only as root")
    print(f"making {name} of Debian {DEBIAN} (once, about a minute) ...", file=sys.stderr)
    tree, ready = WORK / "base-image", WORK / "base-image.tar"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    run("tar", "-C", tree, "-xf", _debian())
    _furnish(tree)
    run("tar", "-C", tree, "-cf", ready, ".")
    labelled = (*_SETTINGS, f"LABEL lambent.recipe={digest}")
    changes = [part for setting in labelled for part in ("--change", setting)]
    run("docker", "import", *changes, ready, name)
    shutil.rmtree(tree)
    ready.unlink()


def _debian() -> Path:
    """A small Debian as a tar file, kept for the next time."""
    tar = WORK / f"{DEBIAN}-{architecture()}.tar"
    if not tar.exists():
        # A folder of its own: what one leaves behind that was killed is still mounted.
        tree = Path(tempfile.mkdtemp(prefix=f"{DEBIAN}-", dir=WORK))
        tree.chmod(0o755)
        run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", DEBIAN, tree)
        for name in _SHED:
            shutil.rmtree(tree / name, ignore_errors=True)
        run("tar", "-C", tree, "-cf", f"{tar}.part", ".")
        os.rename(f"{tar}.part", tar)
        shutil.rmtree(tree)
    return tar


def _furnish(tree: Path) -> None:
    """Put in what makes a Debian a Lambda runtime."""
    runtime = tree / "var/runtime"
    for folder in (runtime, tree / "var/lang/bin", tree / "var/task", tree / "opt"):
        folder.mkdir(parents=True, exist_ok=True)
    for program in (f"python{PYTHON}", "python3"):
        (tree / "var/lang/bin" / program).symlink_to(f"/usr/bin/python{PYTHON}")
    target = ("--python-platform", _PLATFORMS[architecture()], "--python-version", PYTHON)
    run("uv", "pip", "install", "--quiet", "--only-binary", ":all:", *target,
         "--target", runtime, *RUNTIME)  # fmt: skip
    run("chroot", tree, f"/usr/bin/python{PYTHON}", "-m", "compileall", "-q", "/var/runtime")
    (runtime / "main.py").write_text(_MAIN)
    _script(runtime / "bootstrap", _BOOTSTRAP)
    _script(tree / "lambda-entrypoint.sh", _ENTRYPOINT)


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def main() -> None:
    try:
        with running():
            print(ensure_image())
    except Missing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
