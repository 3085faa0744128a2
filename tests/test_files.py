import os
import subprocess
import sys

import pytest

from qstrategies import files
from qstrategies.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "record.json"
    files.atomic_write(target, "old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_has_one_writer(tmp_path):
    script = f"from qstrategies.files import exclusive; from pathlib import Path\nwith exclusive(Path({str(tmp_path)!r})): pass"
    with files.exclusive(tmp_path):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "InputError" in second.stderr
    assert "another comparison is writing to" in second.stderr
    with files.exclusive(tmp_path):
        assert True, "the lock is free again"


def test_the_lock_is_refused_inside_one_process_too(tmp_path):
    with files.exclusive(tmp_path), pytest.raises(InputError, match="another comparison"), files.exclusive(tmp_path):
        raise AssertionError("two writers")
