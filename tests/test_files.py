"""Files that stand complete or not at all, and locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import at_once

from recllm.base import files
from recllm.base.errors import StoreError
from recllm.base.files import LOCKLESS_SECONDS, PRIVATE, drafts_folder, lock_file, sweep_drafts, whole_file, write_whole


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.write(b"new")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_kept_where_it_may_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_whole(path, "first", overwrite=False)
    with pytest.raises(FileExistsError):
        write_whole(path, "second", overwrite=False)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    with whole_file(tmp_path / "key", mode=PRIVATE) as stream:
        (draft,) = tmp_path.iterdir()
        assert draft.stat().st_mode & 0o777 == PRIVATE
        stream.write(b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == PRIVATE
    with pytest.raises(ZeroDivisionError), drafts_folder(tmp_path / "parts") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        _ = 1 / 0
    assert not list((tmp_path / "parts").iterdir())


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first", "the one that ends last"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import os, sys
from pathlib import Path
from recllm.base.files import drafts_folder, whole_file
root = Path(sys.argv[1])
with whole_file(root / "state") as stream, drafts_folder(root) as folder:
    stream.write(b"whole")
    (folder / "part").write_bytes(b"x")
    print(os.getpid(), flush=True)
    if sys.stdin.readline() == "end\\n":
        assert (folder / "part").exists()
    else:
        os._exit(9)
"""


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.mark.parametrize("in_container", [False, True])
def test_a_sweep_leaves_what_another_process_writes_and_takes_what_it_left(tmp_path: Path, in_container: bool) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    if in_container:
        command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", *command]
        try:
            subprocess.run([*command[:5], "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine makes no process numbers of their own")
    for word, written in (("end", b"whole"), ("die", None)):
        (tmp_path / "state").unlink(missing_ok=True)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None and child.stdout is not None
            assert (int(child.stdout.readline()) == 1) == in_container
            assert len(drafts(tmp_path)) > 1
            sweep_drafts(tmp_path)
            child.stdin.write(f"{word}\n")
            child.stdin.flush()
            child.wait()
        assert child.returncode == (0 if written else 9)
        assert written is None or (tmp_path / "state").read_bytes() == written
        assert bool(drafts(tmp_path)) == (written is None)
    sweep_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_draft_is_not_taken_before_its_writer_has_locked_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, n_swept = files._lock, 0

    def late(descriptor: int, *, wait: bool) -> None:
        nonlocal n_swept
        if wait and n_swept < 3:
            n_swept += 1
            sweep_drafts(tmp_path)
        lock(descriptor, wait=wait)

    monkeypatch.setattr(files, "_lock", late)
    write_whole(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole" and n_swept == 3


def test_where_files_cannot_be_locked_old_drafts_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(descriptor: int, *, wait: bool) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files, "_lock", no_lock)
    new, old = tmp_path / ".new.1.draft", tmp_path / ".old.1.draft"
    for draft in (new, old):
        draft.touch()
    os.utime(old, times=(0, time.time() - LOCKLESS_SECONDS - 1))
    with drafts_folder(tmp_path) as folder:
        sweep_drafts(tmp_path)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == [new]


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / ".lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        with lock_file(path):
            inside += 1
            most = max(most, inside)
            inside -= 1

    at_once(*[work] * 5)
    assert (inside, most) == (0, 1)


def test_a_lock_that_is_not_free_says_so(tmp_path: Path) -> None:
    path = tmp_path / ".lock"

    def impatient() -> None:
        with lock_file(path, wait_seconds=0):
            pass

    with lock_file(path), pytest.raises(StoreError, match=r"\.lock is locked by another process; wait"):
        at_once(impatient)
    impatient()  # it is free again
