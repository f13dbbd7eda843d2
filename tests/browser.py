"""Drives chromium by its own protocol (Chrome DevTools) over two pipes: keys, themes, pictures."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

#: What a test's browser does not need.
_QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
#: Virtual key codes of the keys that tests press.
_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
          "ArrowDown": 40, "/": 191}  # fmt: skip


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a headless chromium; a context manager."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The protocol's pipes must be the descriptors 3 and 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        options = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe"]
        options += [*(f"--disable-{name}" for name in _QUIET), f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *options],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self._session = b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        self._process.terminate()
        self._process.wait(timeout=60)
        os.close(self._in)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                block = os.read(self._in, 1 << 16)
                assert block, "the browser ended"
                self._rest += block
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(
        self, address: str, theme: str = "light", width: int = 1000, height: int = 620
    ) -> None:
        """Go to a page, in the theme that the person's system is set to."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._call("Emulation.setEmulatedMedia", features=features)
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=False)  # fmt: skip
        self._call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return once an expression is true; what the page does not have yet is not."""
        asked = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        for _ in range(600):
            if self.value(asked):
                return
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other; single characters are typed."""
        for key in keys:
            typed = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = _CODES.get(key, ord(key[0].upper()))
            same = {"key": key, "windowsVirtualKeyCode": code}
            self._call("Input.dispatchKeyEvent", type="keyDown", text=typed, **same)
            self._call("Input.dispatchKeyEvent", type="keyUp", **same)

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
