"""`testbed admin` reads files of strangers: what is neither key nor certificate is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.commands import admin
from testbed.errors import ConfigurationError

# secp160k1, which the library knows and does not support.
ANOTHER_CURVE = """-----BEGIN PUBLIC KEY-----
MD4wEAYHKoZIzj0CAQYFK4EEAAkDKgAEXxeZhADUFnEY0Nnkv/thyXjlwlLPSd4a
gG09A4gOo0aapQzg7GdTkg==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize("text", ["", "nonsense", ANOTHER_CURVE])
@pytest.mark.parametrize("command", [admin.add, admin.revoke, admin.add_root, admin.withdraw_root])
def test_a_file_of_something_else_is_refused(command: object, text: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    file.write_text(text)
    assert callable(command)
    with pytest.raises(ConfigurationError, match=r"file\.pem"):
        command(file)
