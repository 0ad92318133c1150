"""Keys: made once, private, printed only in public; the certificate follows from the key."""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chain.keys import Es256Signer
from nodes.config import certificate_spki
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen, load_key, make_key


def run(*directories: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nodes.keygen", "--dir", *map(str, directories)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_printed_is_public_and_what_is_kept_is_private(tmp_path: Path) -> None:
    ended = run(tmp_path / "keys")
    assert ended.returncode == 0
    printed = json.loads(ended.stdout)
    assert sorted(printed) == ["certificate", "node", "spki"]
    key = tmp_path / "keys" / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in ended.stdout + ended.stderr
    assert Es256Signer(load_key(key)).public == base64.b64decode(printed["spki"])
    assert certificate_spki(printed["certificate"]) == base64.b64decode(printed["spki"])


def test_again_it_prints_the_same_and_replaces_nothing(tmp_path: Path) -> None:
    """Even with the certificate lost: it is a function of the key, so every pin stays good."""
    first = keygen(tmp_path)
    (tmp_path / CERTIFICATE_FILE).unlink()
    assert keygen(tmp_path) == first


def test_one_process_makes_the_keys_of_several_in_their_order(tmp_path: Path) -> None:
    """Its start takes longer than a key, most of all on a Raspberry Pi."""
    first, second = tmp_path / "first", tmp_path / "second"
    known = keygen(second)
    ended = run(first, second)
    printed = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["node"] for each in printed] == [keygen(first).node, known.node]
    assert known.node != keygen(first).node


def test_openssl_accepts_the_certificate(tmp_path: Path) -> None:
    keygen(tmp_path)
    certificate = str(tmp_path / CERTIFICATE_FILE)
    ended = subprocess.run(
        ["openssl", "verify", "-CAfile", certificate, certificate],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_key_that_could_not_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nothing could be made there ever after: a half key is never replaced."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            keygen(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert keygen(tmp_path) == keygen(tmp_path)


def test_a_key_that_is_being_written_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, it is whole or it is missing; and at no moment may others read it."""
    seen: list[tuple[bool, list[int]]] = []
    sync = os.fsync

    def synced(descriptor: int) -> None:
        modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
        seen.append(((tmp_path / KEY_FILE).exists(), modes))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    make_key(tmp_path / KEY_FILE)
    assert seen[0] == (False, [0o600])
    load_key(tmp_path / KEY_FILE)


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("not a key")
    (tmp_path / KEY_FILE).chmod(0o600)
    ended = run(tmp_path)
    assert ended.returncode == 2
    assert KEY_FILE in ended.stderr
    with pytest.raises(ValueError, match="private key"):
        load_key(tmp_path / KEY_FILE)


def test_a_place_that_cannot_be_written_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "keys").returncode == 3
