"""Reads what a GGUF file says about its model, without its weights.

Source: github.com/ggml-org/ggml `docs/gguf.md`, version 3.
"""

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TENSOR_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16"},
}
FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 15: "Q4_K_M", 17: "Q5_K_M"}


def _scalar(file: BinaryIO, code: str) -> Any:
    size = struct.calcsize(code)
    return struct.unpack(f"<{code}", file.read(size))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(file)
    if kind == ARRAY:
        element, count = _scalar(file, "I"), _scalar(file, "Q")
        return [_value(file, element) for _ in range(count)]
    return _scalar(file, SCALARS[kind])


@dataclass(frozen=True)
class Gguf:
    """A model file: its metadata and its tensors as `/api/show` lists them."""

    path: Path
    metadata: dict[str, Any]
    tensors: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "Gguf":
        """ValueError if it is not a GGUF file."""
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ValueError(f"{path} is not a GGUF file")
            _scalar(file, "I")
            tensor_count, value_count = _scalar(file, "Q"), _scalar(file, "Q")
            metadata = {}
            for _ in range(value_count):
                name = _text(file)
                metadata[name] = _value(file, _scalar(file, "I"))
            tensors = []
            for _ in range(tensor_count):
                name = _text(file)
                shape = [_scalar(file, "Q") for _ in range(_scalar(file, "I"))]
                kind = TENSOR_TYPES.get(_scalar(file, "I"), "unknown")
                _scalar(file, "Q")
                tensors.append({"name": name, "type": kind, "shape": shape})
        return cls(path, metadata, tensors)

    @property
    def family(self) -> str:
        return str(self.metadata["general.architecture"])

    @cached_property
    def parameter_count(self) -> int:
        total = 0
        for tensor in self.tensors:
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
        return total

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file; reads all of it once."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def modified_at(self) -> datetime:
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": f"{self.parameter_count / 1e6:.2f}M",
            "quantization_level": FILE_TYPES.get(
                self.metadata.get("general.file_type", 0), "unknown"
            ),
        }

    def model_info(self, *, verbose: bool) -> dict[str, Any]:
        """The metadata; long lists are null unless `verbose`."""
        info = {"general.parameter_count": self.parameter_count} | {
            name: value
            for name, value in self.metadata.items()
            if name != "tokenizer.chat_template"
        }
        if not verbose:
            info |= {
                name: None
                for name, value in info.items()
                if isinstance(value, list) and name.startswith("tokenizer.ggml.")
            }
        return dict(sorted(info.items()))
