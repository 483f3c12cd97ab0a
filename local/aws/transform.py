"""Turns the SAM template into the CloudFormation template that AWS would make of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.emulator.intrinsics import load_yaml

ROOT = Path(__file__).resolve().parents[2]
_CODE = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}


def transform(
    template: Mapping[str, Any],
    *,
    parameters: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
    region: str = "us-east-1",
) -> dict[str, Any]:
    """The transformed template: what SAM's macro gives for these parameter values.

    `code` says where the code of a logical id lies (s3://bucket/key); invented where it is not
    given, which is enough to look at the result.
    """
    os.environ.setdefault("AWS_DEFAULT_REGION", region)
    from samtranslator.parser.parser import Parser  # type: ignore[import-untyped]
    from samtranslator.translator.transform import (  # type: ignore[import-untyped]
        transform as sam_transform,
    )

    given = dict(parameters or {})
    source = copy.deepcopy(dict(template))
    for logical_id, resource in source["Resources"].items():
        if name := _CODE.get(resource["Type"]):
            place = (code or {}).get(logical_id, f"s3://bucket/{logical_id}.zip")
            resource["Properties"][name] = place
    values = {name: given.get(name, body.get("Default", f"some-{name}"))
              for name, body in source["Parameters"].items()}  # fmt: skip
    done: dict[str, Any] = sam_transform(source, values, _NoManagedPolicies(), None, Parser())
    return done


class _NoManagedPolicies:
    """SAM asks for AWS's list of managed policies; ours names none of them."""

    def load(self) -> dict[str, str]:
        return {}


def read_template(path: Path = ROOT / "template.yaml") -> dict[str, Any]:
    """A template's source, with the short forms of intrinsic functions written out."""
    return load_yaml(path.read_text(encoding="utf-8"))
