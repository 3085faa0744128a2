"""Writing files so that a reader never sees half of one, and folders so that two writers never
mix."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qstrategies.errors import InputError

TEMPORARY = (".qstrategies-", ".part")
"""How the names of files begin and end that are not written completely yet."""


class FileError(InputError, OSError):
    """What the system refused: the message says what was being done, to which file or folder, and
    why."""

    errno: int | None


@contextlib.contextmanager
def doing(action: str, path: Path) -> Iterator[None]:
    """Raise what the system refuses inside as ``FileError``: "cannot ``action`` ``path``:
    reason"."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        found = FileError(f"cannot {action} {str(path)!r}: {reason}")
        found.errno = getattr(error, "errno", None)
        raise found from error


LARGEST_FILE = 512 << 20
"""Of a file that may come from anywhere, in bytes."""


RUNS_FOLDER = "*/record.json", "the folder that run or compare wrote"
RUN_FOLDER = "record.json", "the folder of one run"
"""What makes a folder one that report and diagnose take, and how to call it."""


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk, then rename it into
    place.

    The temporary file is locked while it is written: who can lock it knows that its writer was
    killed.

    Raises ``FileError`` (a full disk, say) with ``path`` untouched and the temporary file removed.
    """
    make_folder(path.parent)
    with doing("write", path), _temporary(path.parent) as (handle, temporary):
        with open(handle, "wb", closefd=False) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.fsync(handle)
        temporary.chmod(0o644)
        temporary.replace(path)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[int, Path]]:
    """A new, locked file in ``folder``, as its descriptor and its path; removed after an
    exception."""
    handle, path = _locked_file(folder)
    try:
        yield handle, path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _locked_file(folder: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY[0], suffix=TEMPORARY[1])
        path = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        if path.exists():  # a sweeper may have taken it in between, for one without a writer
            return handle, path
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed writers from ``folder`` and the folders in it, links not
    followed.

    A file whose writer lives is locked, and stays.
    """
    pattern = "*".join(TEMPORARY)
    inside = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for path in [found for place in (folder, *inside) for found in place.glob(pattern)]:
        with contextlib.suppress(OSError), path.open("rb") as file:  # another user's file stays too
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is above it, unless it is there; raises ``FileError``."""
    with doing("make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``; raises ``FileError`` if one may not know."""
    with doing("look at", path):
        return path.exists()


def remove(path: Path) -> None:
    """Remove the file ``path`` if it is there; raises ``FileError``."""
    with doing("remove", path):
        path.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """All of the file ``path``; raises ``FileError``."""
    with doing("read", path):
        if path.exists() and not path.is_file():
            raise OSError(errno.EISDIR, "it is no file")
        return path.read_bytes()


def check_file(path: Path, most: int | None = LARGEST_FILE) -> None:
    """Raise ``InputError`` unless ``path`` is a regular file that is neither empty nor larger than
    ``most`` bytes; it is not opened."""
    if not path.exists():
        raise InputError(f"no such file: {str(path)!r}; give the path of one")
    if not path.is_file():
        raise InputError(
            f"{str(path)!r} is a {'folder' if path.is_dir() else 'device or pipe'}: expected a file"
        )
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{str(path)!r} is empty: write it again")
    if most is not None and size > most:
        raise InputError(f"{str(path)!r} has {size >> 20} MB: at most {most >> 20} MB are read")


def check_folder(path: Path, pattern: str, expected: str) -> None:
    """Raise ``InputError`` unless ``path`` holds a file of ``pattern``; ``expected`` says which
    folder was asked for."""
    with doing("look through", path):
        found = any(path.glob(pattern))
    if not found:
        raise InputError(f"no run records in {str(path)!r} ({pattern}): expected {expected}")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one writer, freed of what killed ones left half-written.

    Raises ``InputError`` at once if another process holds it. The kernel drops the lock when the
    process ends, however it ends, so a crash leaves no lock to clean up.
    """
    make_folder(folder)
    with doing("lock", folder / ".lock"):
        file = (folder / ".lock").open("w")
    with file:
        try:
            with doing("lock", folder / ".lock"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(
                f"another comparison is writing to {str(folder)!r}: wait for it, or give "
                "another --out"
            ) from None
        with doing("look through", folder):
            sweep(folder)
        yield
