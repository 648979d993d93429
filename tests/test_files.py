"""Files that stand complete or not at all, and locks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from recllm.errors import StoreError
from recllm.files import PRIVATE, lock_file, whole_file, write_whole


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


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first", "the one that ends last"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / ".lock", 0, 0
    start = threading.Barrier(5)

    def work() -> None:
        nonlocal inside, most
        start.wait()
        with lock_file(path):
            inside += 1
            most = max(most, inside)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_a_lock_that_is_not_free_says_so(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    refused = []

    def impatient() -> None:
        try:
            with lock_file(path, wait_seconds=0):
                pass
        except StoreError as error:
            refused.append(str(error))

    with lock_file(path):
        thread = threading.Thread(target=impatient)
        thread.start()
        thread.join()
    assert refused == [f"{path} is locked by another process; wait until that one is done, then try again"]
    impatient()
    assert len(refused) == 1, "it is free again"
