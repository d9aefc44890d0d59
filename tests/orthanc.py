"""A DICOMweb server for tests: Orthanc with a database of its own, on the loopback, that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import requests

BINARY = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "tester", "kept-Secret-7391"

needs_orthanc = pytest.mark.skipif(
    not (Path(BINARY).is_file() and PLUGIN.is_file()),
    reason="Orthanc is missing: apt-get install orthanc orthanc-dicomweb",
)


class Orthanc:
    """One server; it keeps its port and its storage from one start to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/dicom-web"
        self._process: subprocess.Popen[bytes] | None = None
        storage = str(folder / "storage")
        settings = {
            "Name": "Test",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "WebDavEnabled": False,
            "SaveJobs": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

    def start(self) -> Orthanc:
        with (self.folder / "orthanc.log").open("ab") as log:
            command = [BINARY, str(self.folder / "orthanc.json")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + 30
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if self.session().get(f"{self.url}/studies?StudyInstanceUID=2.25.0", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.05)
        self.kill()
        raise RuntimeError((self.folder / "orthanc.log").read_text()[-2000:])

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.auth = (USER, PASSWORD)
        return session

    def store(self, files: Iterable[Path]) -> None:
        """Send DICOM files by STOW-RS, with an independent client."""
        import pydicom
        from dicomweb_client.api import DICOMwebClient

        client = DICOMwebClient(self.url, session=self.session())
        waiting = [pydicom.dcmread(path) for path in files]
        for start in range(0, len(waiting), 50):
            answer = client.store_instances(waiting[start : start + 50])
            assert not answer.get("FailedSOPSequence")

    def store_as_is(self, data: bytes) -> None:
        """Send one DICOM file byte for byte, by Orthanc's own interface."""
        answer = self.session().post(f"{self.origin}/instances", data=data, timeout=30)
        answer.raise_for_status()


def set_credentials(monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD) -> None:
    """Put the credentials, and an exception from any proxy, into the environment."""
    monkeypatch.setenv("PACS_USER", USER)
    monkeypatch.setenv("PACS_PASSWORD", password)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def environment(server: Orthanc, password: str = PASSWORD) -> dict[str, str]:
    """Return the environment of a process that may ask the server."""
    return {
        **os.environ,
        "PACS_URL": server.url,
        "PACS_USER": USER,
        "PACS_PASSWORD": password,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
