"""The file of a trained float model, told apart by what is in it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, deserialize

from qstrategies.errors import InputError
from qstrategies.files import check_file, doing
from qstrategies.typed_json import Sha256

PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of ``torch.save`` begin, new ones and old ones."""
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    'save_file(torch.load({path!r}, weights_only=True), {to!r})"'
)


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors file ``path``, with the hash of its tensors: of equal tensors it is the same
    checkpoint, wherever it lies and whatever else it says."""

    path: str = field(compare=False)
    sha256: Sha256

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """That in the file ``path``.

        Raises ``InputError`` for any other file; of a pickle it says how to convert it.
        """
        place = Path(path)
        _check_format(place)
        with doing("read", place):
            data = place.read_bytes()
        try:
            tensors = deserialize(data)
        except SafetensorError as error:
            raise InputError(f"{str(place)!r} is damaged: {error}; write it again") from None
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors, key=lambda each: each[0]):
            digest.update(f"{name} {tensor['dtype']} {tensor['shape']} ".encode())
            digest.update(tensor["data"])
        return cls(str(place), digest.hexdigest())

    def check_unchanged(self) -> None:
        """Raise ``InputError`` if the file has other tensors now."""
        if Checkpoint.at(self.path) != self:
            raise InputError(
                f"{self.path!r} was written since the configuration was made: make it again, and "
                "leave the file as it is while it is used"
            )


def _check_format(path: Path) -> None:
    """Raise ``InputError`` for what does not begin as a safetensors file."""
    check_file(path, most=None)
    with doing("read", path), path.open("rb") as file:
        first = file.read(9)
    if first[8:] == b"{":  # JSON after its length in 8 bytes
        return
    if first.startswith(PICKLES):
        convert = CONVERT.format(path=str(path), to=str(path.with_suffix(".safetensors")))
        raise InputError(
            f"{str(path)!r} is a pickle, which can run anything and is not loaded. Convert it "
            f"once: {convert} (where the weights lie deeper, add ['state_dict'] or what it is)"
        )
    raise InputError(
        f"{str(path)!r} is no safetensors file: write it with safetensors.torch.save_file"
    )
