"""A server that speaks S3 on this machine, in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.conftest import missing
from tests.sshd import free_port


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, in a process of its own; gives its URL."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1).close()
                break
            time.sleep(0.1)
        else:
            missing("moto's server did not come up")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def new_bucket(url: str, name: str, patch: pytest.MonkeyPatch) -> None:
    """Makes a bucket, and has the environment lead to it."""
    for variable in ("AWS_SESSION_TOKEN", "AWS_PROFILE"):
        patch.delenv(variable, raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", url)
    urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT"), timeout=10).close()
