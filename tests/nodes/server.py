"""A real ComfyUI server with the pack in it, in a folder of its own, and the few HTTP calls that tests make."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from .inside.harness import device_arguments

PACK = Path(__file__).parents[2]


def comfy_python(root: Path) -> str:
    """The interpreter of an installation: its .venv, where comfy-cli puts it, else COMFYUI_PYTHON."""
    for place in (root / ".venv" / "bin" / "python", root / ".venv" / "Scripts" / "python.exe"):
        if place.exists():
            return str(place)
    return os.environ.get("COMFYUI_PYTHON", "python3")


def environment() -> dict[str, str]:
    """One thread: two waiting for each other on two busy cores take ten times as long."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Refused(Exception):
    """The server would not queue a prompt; `errors` are its node errors."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer)[:2000])
        self.errors = answer.get("node_errors", {})


class Server:
    """`with Server(root, folder) as server:` runs ComfyUI on a free port, its files under `folder`; with `dynamic`, as on a card
    with dynamic VRAM, emulated. `pack`: the folder of the pack, if it is not this one."""

    def __init__(self, root: Path, folder: Path, *arguments: str, dynamic: bool = False, pack: Path = PACK) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root, self.folder, self.arguments, self.pack = root, folder, arguments, pack
        self.program = [str(root / "main.py"), *device_arguments(dynamic)]
        if dynamic and "--cpu" in self.program:
            self.program.insert(0, str(PACK / "tests" / "nodes" / "inside" / "serve.py"))
        self.log = folder / "server.log"

    @property
    def tiny(self) -> Path:
        """The folder of the model in its pack."""
        return self.pack / "emu_core" / "assets" / "tiny"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        custom = self.folder / "custom_nodes"
        custom.mkdir(parents=True, exist_ok=True)
        link = custom / "ComfyUI-EmuVideo"
        if not link.exists():
            link.symlink_to(self.pack, target_is_directory=True)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [comfy_python(self.root), *self.program, "--port", str(self.port), "--disable-auto-launch",
             "--disable-api-nodes",
             "--base-directory", str(self.folder), "--database-url", "sqlite:///:memory:", "--preview-method", "latent2rgb",
             *self.arguments],
            cwd=self.root, env=environment(), stdout=open(self.log, "w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        while True:
            try:
                self.get("/system_stats")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() - self.started > 240:
                    raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text()[-4000:]}") from None
                time.sleep(0.1)
        self.start_seconds = time.monotonic() - self.started
        self.post("/api/settings/Comfy.TutorialCompleted", True)  # else the page opens on the template gallery
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def post(self, path: str, value: Any) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(value).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text.strip().startswith((b"{", b"[")) else None
        except urllib.error.HTTPError as error:
            raise Refused(json.loads(error.read())) from None

    def queue(self, prompt: dict[str, Any]) -> str:
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    async def queue_until(self, prompt: dict[str, Any], node: str, steps: int) -> str:
        """Queue a prompt and wait until a node of it has told of so many steps."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.address}/ws?clientId=tests") as socket:
            prompt_id = self.post("/prompt", {"prompt": prompt, "client_id": "tests"})["prompt_id"]
            while True:
                said = await socket.receive(timeout=120)
                assert not socket.closed, self.log.read_text()[-3000:]
                told = json.loads(said.data) if said.type == aiohttp.WSMsgType.TEXT else {}
                if told.get("type") == "progress" and told["data"]["node"] == node and told["data"]["value"] >= steps:
                    return prompt_id

    def wait(self, prompt_id: str, timeout: float = 300) -> dict[str, Any]:
        """The history entry of a prompt, once it is done."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} was not done after {timeout} s:\n{self.log.read_text()[-3000:]}")

    def run(self, prompt: dict[str, Any], timeout: float = 300) -> dict[str, Any]:
        """Queue a prompt, wait, and return its outputs by node; RuntimeError with ComfyUI's message if it failed."""
        entry = self.wait(self.queue(prompt), timeout)
        if entry["status"]["status_str"] != "success":
            messages = [m[1].get("exception_message", m[0]) for m in entry["status"]["messages"] if "error" in m[0]]
            raise RuntimeError("; ".join(messages) or json.dumps(entry["status"]))
        return entry["outputs"]

    def files(self, outputs: dict[str, Any], suffix: str = "") -> list[Path]:
        """Files that a prompt wrote."""
        found = []
        for output in outputs.values():
            for items in output.values():
                for item in items if isinstance(items, list) else []:
                    if isinstance(item, dict) and str(item.get("filename", "")).endswith(suffix):
                        found.append(self.folder / item["type"] / item["subfolder"] / item["filename"])
        return found


def temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="emu-video-comfy-"))
