"""A headless browser in a test's hand, by the DevTools protocol over a pipe: no driver, no port.

`chromium()` is the program, None if none is installed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest

__all__ = ["NAMES", "Browser", "browser", "check_page", "chromium"]

VIEWS = ((1200, True), (375, False))  # width in pixels, dark
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_BYTES_MAX = 64 * 1024 * 1024
FD_OF_COMMANDS, FD_OF_ANSWERS = 3, 4  # fixed by --remote-debugging-pipe


def chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page. `complaints` are errors and warnings of console and network."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process = process
        self._commands = commands
        self._answers = os.fdopen(answers, "rb")
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        self._loaded = False
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        os.close(self._commands)

    def show(self, page: Path, *, width_px: int = 1200, dark: bool = False) -> None:
        """Open a file and wait until all of it is there. `complaints` has those of this page."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=800,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", features=scheme)
        self._loaded = False
        self.complaints.clear()
        self._ask("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._take(self._read())

    def value(self, script: str) -> Any:
        """Of a JavaScript expression."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._take(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        """The next message; the browser's end is the test's failure."""
        while b"\0" not in self._rest:
            more = os.read(self._answers.fileno(), 65_536)
            if not more or len(self._rest) > ANSWER_BYTES_MAX:
                pytest.fail("the browser ended")
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.complaints.append(json.dumps(params["args"]))


def check_page(shown: Browser, page: Path, copy: Path, *, figures: int) -> None:
    """A report's page in every view: no complaint on the console, every figure drawn with its
    colours, no page that scrolls sideways. Also under a content security policy that drops every
    style. `copy` is where what is shown is written."""
    for view in VIEWS:
        _check(shown, page, copy, view, figures=figures, strict=False)
    _check(shown, page, copy, VIEWS[0], figures=figures, strict=True)


def _check(
    shown: Browser, page: Path, copy: Path, view: tuple[int, bool], *, figures: int, strict: bool
) -> None:
    width_px, dark = view
    text = page.read_text()
    if strict:
        policy = "default-src 'none'; style-src 'none'; script-src 'none'; img-src 'none'"
        meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        text = text.replace("<head>", f"<head>{meta}")
    copy.write_text(text)
    shown.show(copy, width_px=width_px, dark=dark)
    sizes = shown.value(
        "[...document.querySelectorAll('figure svg')].map(svg =>"
        " [svg.getBBox().width, svg.getBBox().height,"
        " new Set([...svg.querySelectorAll('[fill]')].map(e => e.getAttribute('fill')))"
        ".size])"
    )
    assert len(sizes) == text.count("<figure>") == figures
    assert all(width > 100 and height > 100 and fills > 1 for width, height, fills in sizes)
    if strict:  # styles are gone, as they must be, and nothing else
        assert shown.complaints
        assert all("style" in each.lower() for each in shown.complaints)
        return
    assert shown.complaints == []
    assert shown.value("document.documentElement.scrollWidth") <= width_px
    background = shown.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Skips the test, with the reason, where no browser is installed."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # its sockets need a short name
        yield from _browser(profile, scratch)


def _browser(profile: Path, scratch: str) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip(f"no headless browser is installed: none of {', '.join(NAMES)}")
    commands_there, commands_here = os.pipe()
    answers_here, answers_there = os.pipe()

    argv = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    argv += ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    # A shell gives the pipes the numbers that the browser expects.
    moved = f'exec "$@" {FD_OF_COMMANDS}<&{commands_there} {FD_OF_ANSWERS}>&{answers_there}'
    process = subprocess.Popen(
        ["bash", "-c", moved, "bash", *argv],
        pass_fds=(commands_there, answers_there),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": scratch},  # it leaves a folder there
        start_new_session=True,
    )
    os.close(commands_there)
    os.close(answers_there)
    try:
        with Browser(process, commands_here, answers_here) as found:
            yield found
    finally:
        process.terminate()
        process.wait()
