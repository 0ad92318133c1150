"""`unchecked.py MODULE ...`: runs a process of ours that checks no signature and no right.

For tests that see a verdict say "broken".
"""

from __future__ import annotations

import runpy
import sys

from chain.keys import Es256
from gateway.broker.store import SecurityStore


def yes(*_: object, **__: object) -> bool:
    return True


Es256.verify = yes  # type: ignore[method-assign]
SecurityStore.allows = yes  # type: ignore[method-assign]
SecurityStore.knows = yes  # type: ignore[method-assign]
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
