import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qstrategies import files
from qstrategies.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "record.json"
    files.atomic_write(target, "old")
    monkeypatch.setattr(
        os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_has_one_writer(tmp_path):
    script = (
        "from qstrategies.files import exclusive; from pathlib import Path\nwith "
        f"exclusive(Path({str(tmp_path)!r})): pass"
    )
    with files.exclusive(tmp_path):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "InputError" in second.stderr
    assert "another comparison is writing to" in second.stderr
    with files.exclusive(tmp_path):
        assert True, "the lock is free again"


def test_the_lock_is_refused_inside_one_process_too(tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(InputError, match="another comparison"),
        files.exclusive(tmp_path),
    ):
        raise AssertionError("two writers")


def failing(code):
    def fail(*arguments, **more):
        raise OSError(code, os.strerror(code))

    return fail


def take_lock(folder):
    with files.exclusive(folder):
        raise AssertionError("locked")


@pytest.mark.parametrize(
    ("where", "call", "code", "action", "message"),
    [
        (
            tempfile,
            "mkstemp",
            errno.EROFS,
            lambda folder: files.atomic_write(folder / "x", ""),
            "cannot write '{}/x': Read-only file system",
        ),
        (
            os,
            "fsync",
            errno.ENOSPC,
            lambda folder: files.atomic_write(folder / "x", ""),
            "cannot write '{}/x': No space left on device",
        ),
        (
            os,
            "fsync",
            errno.EDQUOT,
            lambda folder: files.atomic_write(folder / "x", ""),
            "cannot write '{}/x': Disk quota exceeded",
        ),
        (
            Path,
            "replace",
            errno.EACCES,
            lambda folder: files.atomic_write(folder / "x", ""),
            "cannot write '{}/x': Permission denied",
        ),
        (
            Path,
            "mkdir",
            errno.ENOSPC,
            lambda folder: files.atomic_write(folder / "a/x", ""),
            "cannot make the folder '{}/a': No space left",
        ),
        (
            Path,
            "read_bytes",
            errno.EIO,
            lambda folder: files.read_bytes(folder / "there"),
            "cannot read '{}/there': Input/output error",
        ),
        (
            Path,
            "exists",
            errno.EACCES,
            lambda folder: files.exists(folder / "x"),
            "cannot look at '{}/x': Permission denied",
        ),
        (fcntl, "flock", errno.ENOLCK, take_lock, "cannot lock '{}/.lock': No locks available"),
        (Path, "open", errno.EACCES, take_lock, "cannot lock '{}/.lock': Permission denied"),
        (Path, "iterdir", errno.EIO, take_lock, "cannot look through '{}': Input/output error"),
    ],
)
def test_what_the_system_refuses_names_file_and_action_and_leaves_nothing(
    where, call, code, action, message, tmp_path, monkeypatch
):
    (tmp_path / "there").write_text("")
    monkeypatch.setattr(where, call, failing(code))
    with pytest.raises(files.FileError) as caught:
        action(tmp_path)
    monkeypatch.undo()
    assert str(caught.value).startswith(message.format(tmp_path)) and caught.value.errno == code
    assert isinstance(caught.value, InputError) and isinstance(caught.value, OSError)
    assert {path.name for path in tmp_path.iterdir()} <= {"there", ".lock"}


@pytest.mark.parametrize(
    ("name", "reading", "writing"),
    [
        ("there/x", "Not a directory", "cannot make the folder"),
        ("folder", "it is no file", "Is a directory"),
        ("n" * 300, "File name too long", "File name too long"),
        ("nul\0", "embedded null byte", "embedded null byte"),
        ("loop", "symbolic links", None),
    ],
)
def test_paths_that_cannot_be_read_or_written_are_named(name, reading, writing, tmp_path):
    (tmp_path / "there").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(files.FileError, match=f"cannot read .*{reading}"):
        files.read_bytes(tmp_path / name)
    if writing is None:
        files.atomic_write(tmp_path / name, "replaces the link")
        assert files.read_bytes(tmp_path / name) == b"replaces the link"
        return
    with pytest.raises(files.FileError, match=writing):
        files.atomic_write(tmp_path / name, "")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "folder", "loop"}


def test_a_long_name_can_be_written(tmp_path):
    files.atomic_write(tmp_path / ("n" * 255), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from qstrategies import files
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.atomic_write(Path(sys.argv[1]), "half")
"""


def left(folder):
    return list(folder.rglob("*".join(files.TEMPORARY)))


def test_the_next_holder_of_the_lock_sweeps_what_killed_writers_left_and_nothing_else(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "runs"
    for place in (outside, folder, folder / "run", folder / "run" / "deeper"):
        done = subprocess.run([sys.executable, "-c", KILLED_WRITER, place / "record.json"])
        assert done.returncode == -signal.SIGKILL
    (folder / "linked").symlink_to(outside)
    others = [folder / ".record.json.swp", folder / "run" / f"{files.TEMPORARY[0]}notes"]
    for path in others:
        path.write_text("mine")
    assert len(left(outside)) == 1 and len(left(folder)) == 3
    with files._temporary(folder) as (_, living), files.exclusive(folder):
        assert left(folder) == [living, *left(folder / "run" / "deeper")], (
            "we write no deeper, and a living writer goes on"
        )
        assert len(left(outside)) == 1 and all(path.exists() for path in others)
        living.unlink()


def test_a_writer_that_is_swept_before_it_has_its_lock_begins_again(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def sweep_first(handle, mode):
        calls.append(handle)
        if len(calls) == 1:
            (path,) = left(tmp_path)
            path.unlink()
        return real(handle, mode)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    files.atomic_write(tmp_path / "record.json", "whole")
    assert (
        (tmp_path / "record.json").read_text() == "whole"
        and len(calls) == 2
        and left(tmp_path) == []
    )
