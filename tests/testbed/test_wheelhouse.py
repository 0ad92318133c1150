"""Environments are made here for machines of another kind, from pinned and hashed wheels alone."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from testbed.errors import ConfigurationError, LabFault
from testbed.wheelhouse import Archive, Platform, Wheelhouse, lock_file

MAGIC = importlib.util.MAGIC_NUMBER.hex()
PC = Platform("x86_64", "3.11", "2.36", "00")
PI = Platform("aarch64", "3.13", "2.41", "00")


def small_lock(directory: Path, *names: str) -> Path:
    """The real lock's entries of a few packages, so that little is fetched."""
    entries = re.split(r"^(?=[a-z0-9])", lock_file().read_text(), flags=re.MULTILINE)
    wanted = [entry for entry in entries if entry.partition("==")[0] in names]
    assert len(wanted) == len(names)
    path = directory / "small.lock"
    path.write_text("".join(wanted))
    return path


def members(archive: Archive) -> list[str]:
    with tarfile.open(archive.path) as tar:
        return tar.getnames()


def test_wheels_are_those_of_the_host_not_of_this_machine(tmp_path: Path) -> None:
    """An aarch64 machine with another Python gets its own binaries, with nothing built here."""
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "msgspec", "six"))
    (common,) = wheelhouse.dependencies(PI)
    binaries = [name for name in members(common) if name.endswith(".so")]
    assert binaries
    assert all("cpython-313-aarch64-linux-gnu" in name for name in binaries)
    assert "six.py" in members(common)
    assert not any(name.endswith(".pyc") for name in members(common)), "not its kind of byte code"


def test_what_only_some_hosts_need_goes_only_there(tmp_path: Path) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "six", "pybind11"))
    assert len(wheelhouse.dependencies(PC)) == 1
    common, special = wheelhouse.dependencies(replace(PC, unix_boards=True))
    assert "six.py" in members(common)
    assert "pybind11/__init__.py" in members(special)
    assert common == wheelhouse.dependencies(PC)[0], "shared by both kinds of host"


def test_a_board_without_hardware_on_a_machine_without_interpreter_is_refused_plainly(
    tmp_path: Path,
) -> None:
    """Not by a resolver that says that requirements are unsatisfiable."""
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "six"))
    with pytest.raises(ConfigurationError, match=r"no MicroPython.*aarch64.*\n.*plug in a device"):
        wheelhouse.dependencies(replace(PI, unix_boards=True))


def test_many_who_ask_at_once_get_one_archive_and_the_next_time_none_is_made(
    tmp_path: Path,
) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "six"))
    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(lambda _: wheelhouse.dependencies(PI), range(6)))
    assert len(made) == 1
    ((archive,),) = made
    inode = archive.path.stat().st_ino
    assert wheelhouse.dependencies(PI) == (archive,)
    assert archive.path.stat().st_ino == inode
    assert [path.name for path in (tmp_path / "cache").glob("*.tar.gz")] == [archive.name]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    lock = small_lock(tmp_path, "six")
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    with pytest.raises(LabFault, match=r"(?i)hash"):
        Wheelhouse(tmp_path / "cache", lock).dependencies(PI)
    assert not list((tmp_path / "cache").glob("*.tar.gz"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (replace(PI, machine="armv7l"), "64-bit"),
        (replace(PI, machine="riscv64"), "x86_64 and aarch64"),
        (replace(PI, python="3.9"), "3.11 or newer"),
        (replace(PI, glibc=""), "C library"),
        (replace(PI, glibc="2.12"), "C library"),
    ],
)
def test_a_machine_without_wheels_is_told_so_before_anything_is_fetched(
    tmp_path: Path, target: Platform, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Wheelhouse(tmp_path / "cache").dependencies(target)


def test_our_code_goes_without_the_orchestrator(tmp_path: Path) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache")
    archive = wheelhouse.code(replace(PI, magic=MAGIC))
    tops = {name.partition("/")[0] for name in members(archive)}
    assert tops == {"chain", "gateway", "nodes"}
    assert "nodes/board/firmware/main.py" in members(archive)
    assert any(name.endswith(".pyc") for name in members(archive)), "ready to run there"
    assert wheelhouse.code(PI).key != archive.key


def test_the_lock_covers_what_boards_import() -> None:
    """Every requirement of the project is pinned with hashes, and is one with the main lock."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock_file().read_text(), re.MULTILINE))
    everything = lock_file().parent.parent.joinpath("requirements.lock").read_text()
    whole = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", everything, re.MULTILINE))
    assert {"cryptography", "msgspec", "cbor2", "mpremote"} <= set(pinned)
    assert {name: whole.get(name) for name in pinned} == pinned, "make lock"


TLS_PROXY = """
import sys
from pathlib import Path
from testbed.wheelhouse import Platform, Wheelhouse
target = Platform("x86_64", "3.11", "2.36", "00")
print(*Wheelhouse(Path(sys.argv[1]), Path(sys.argv[2])).dependencies(target))
"""


def tiny_wheel(path: Path) -> str:
    """The smallest package there is; its SHA-256."""
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{about}/WHEEL", tag)
        wheel.writestr(f"{about}/RECORD", "tiny.py,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def index_behind_a_tls_proxy(directory: Path) -> Iterator[str]:
    """An index with `tiny`, and a certificate from an authority that only this machine knows."""
    new = ["openssl", "req", "-x509", "-days", "2", "-nodes"]
    new += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    ca, ca_key = str(directory / "ca.pem"), str(directory / "ca.key")
    authority = ["-subj", "/CN=authority", "-keyout", ca_key, "-out", ca]
    own = ["-subj", "/CN=proxy", "-CA", ca, "-CAkey", ca_key]
    own += ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
    own += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "proxy.pem")]
    for options in (authority, own):
        subprocess.run([*new, *options], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "proxy.pem", directory / "key.pem")
    serve = partial(SimpleHTTPRequestHandler, directory=str(directory / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}/simple/"
        server.shutdown()


@pytest.mark.lab
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "openssl"))),
    reason="needs root, unshare and openssl: the system's certificates are replaced for a process",
)
def test_wheels_come_through_a_tls_proxy_whose_authority_the_system_knows(tmp_path: Path) -> None:
    """As pip finds them; uv has certificates of its own."""
    page = tmp_path / "www" / "simple" / "tiny"
    page.mkdir(parents=True)
    name = "tiny-1.0-py3-none-any.whl"
    sha = tiny_wheel(page / name)
    (page / "index.html").write_text(f'<a href="{name}#sha256={sha}">{name}</a>')
    lock = tmp_path / "lock"
    lock.write_text(f"tiny==1.0 --hash=sha256:{sha}\n")
    ours = {name: value for name, value in os.environ.items() if "SSL_" not in name}
    with index_behind_a_tls_proxy(tmp_path) as index:
        script = 'mount --bind "$1" /etc/ssl/certs/ca-certificates.crt; shift; exec "$@"'
        argv = [sys.executable, "-c", TLS_PROXY, str(tmp_path / "cache"), str(lock)]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-ec", script, "sh", str(tmp_path / "ca.pem"), *argv],
            env={**ours, "UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": str(tmp_path / "uv")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "common" in done.stdout
