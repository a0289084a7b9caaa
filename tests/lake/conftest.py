"""An object store that speaks S3: moto's server, in an environment of its own (`make infra`)."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pyarrow import fs

from tests.service.conftest import free_port

MOTO = Path(__file__).resolve().parents[2] / ".infra" / "bin" / "moto_server"


@dataclass(frozen=True)
class Bucket:
    address: str
    name: str

    def url(self, prefix: str) -> str:
        endpoint = self.address.removeprefix("http://")
        return f"s3://{self.name}/{prefix}?scheme=http&endpoint_override={endpoint}&region=eu-central-1"

    def objects(self, prefix: str) -> set[str]:
        files, root = fs.FileSystem.from_uri(self.url(prefix))
        found = files.get_file_info(fs.FileSelector(root, recursive=True))
        return {one.path.removeprefix(f"{root}/") for one in found if one.type == fs.FileType.File}


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    if not MOTO.exists():
        pytest.skip("`make infra` installs the S3 server of this test")
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    port = free_port()
    process = subprocess.Popen(
        [MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        made = Bucket(address, "shop")
        files, root = fs.FileSystem.from_uri(made.url("") + "&allow_bucket_creation=true")
        files.create_dir(root.rstrip("/"))
        yield made
    finally:
        process.terminate()
        process.wait(10)
