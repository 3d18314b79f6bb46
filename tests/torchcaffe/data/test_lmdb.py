"""LMDB reading, with databases that python-lmdb wrote."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading

import lmdb
import pytest

from torchcaffe.base.errors import CaffeError
from torchcaffe.data import lmdb_reader


def make(folder, records):
    environment = lmdb.open(str(folder), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key, value)
    environment.close()
    return folder


@pytest.fixture
def folder(tmp_path):
    records = {b"%08d_b" % i: b"value %d" % i + bytes(9000) for i in (2, 0, 1)}
    records[b"z"] = b""
    return make(tmp_path / "db", records)


KEYS = [b"00000000_b", b"00000001_b", b"00000002_b", b"z"]


def test_key_order_and_wrap(folder):
    with lmdb_reader.LmdbReader(folder) as reader:
        assert len(reader) == 4
        assert [reader.next()[0] for _ in range(9)] == KEYS + KEYS + KEYS[:1]
        reader.skip()
        assert reader.next()[0] == KEYS[2]
        assert [key for key, _ in reader] == KEYS  # leaves the cursor where it is
        assert reader.next() == (b"z", b"")
        assert reader.next()[1] == b"value 0" + bytes(9000)
        reader.seek_to_first()
        assert reader.next()[0] == KEYS[0]


def test_one_path_twice_and_again(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("db")
    first, second = lmdb_reader.LmdbReader(folder), lmdb_reader.LmdbReader(str(link) + "/")
    assert first._environment is second._environment
    first.next()
    assert second.next()[0] == KEYS[0]
    first.close()
    assert second.next()[0] == KEYS[1]
    second.close()
    gc.collect()
    make(folder, {b"0": b"more"})  # nothing is left open: python-lmdb lets a writer in
    with lmdb_reader.LmdbReader(folder) as third:
        assert len(third) == 5
    reader = lmdb_reader.LmdbReader(folder)
    del reader  # without close
    gc.collect()
    make(folder, {b"1": b"more"})


def test_a_new_database_in_the_place_of_one_that_is_read(folder, tmp_path):
    with lmdb_reader.LmdbReader(folder) as old:
        first = old.next()
        os.rename(folder, tmp_path / "moved")
        with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"k", b"new")
        with lmdb_reader.LmdbReader(folder) as new:
            assert new.next() == (b"k", b"new") and len(old) != 1
        old.seek_to_first()
        assert old.next() == first


def test_leaves_no_trace_in_the_folder(folder):
    os.unlink(folder / "lock.mdb")
    before = (folder / "data.mdb").read_bytes()
    os.chmod(folder, 0o555)
    with lmdb_reader.LmdbReader(folder) as reader:
        reader.next()
    os.chmod(folder, 0o755)
    assert os.listdir(folder) == ["data.mdb"] and (folder / "data.mdb").read_bytes() == before


def test_threads_and_forks(folder):
    keys = []

    def read():
        with lmdb_reader.LmdbReader(folder) as reader:
            for _ in range(400):
                keys.append(reader.next()[0])

    reader = lmdb_reader.LmdbReader(folder)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys) == sorted(KEYS * 400)
    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 0
    reader.close()


def test_opening_while_another_thread_lets_go(folder):
    """A reader must never be given the environment that is being closed with its last one."""
    failures = []

    def come_and_go():
        try:
            for _ in range(300):
                reader = lmdb_reader.LmdbReader(folder)
                assert reader.next()[0] == KEYS[0]
                del reader  # without close
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert not lmdb_reader._environments


def test_errors_name_the_folder(folder, tmp_path):
    def message(path):
        with pytest.raises(CaffeError) as error:
            lmdb_reader.LmdbReader(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    assert "no such folder" in message(tmp_path / "missing")
    assert "not a file" in message(folder / "data.mdb")
    other = tmp_path / "other"
    other.mkdir()
    assert "no data.mdb" in message(other)
    (other / "CURRENT").write_text("MANIFEST-000004\n")
    assert "LevelDB" in message(other)
    (other / "data.mdb").write_bytes(b"")
    assert "is empty" in message(other)
    (other / "data.mdb").write_bytes(b"junk" * 5000)
    assert "cannot open" in message(other)
    whole = (folder / "data.mdb").read_bytes()
    for size in (100, 5000, 9000, len(whole) - 4096, len(whole) - 1):
        (other / "data.mdb").write_bytes(whole[:size])
        message(other)
    assert "holds no records" in message(make(tmp_path / "none", {}))
    with lmdb_reader.LmdbReader(folder) as reader:  # failures leave nothing behind
        assert len(reader) == 4
