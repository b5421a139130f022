"""A real S3 server for tests: moto's, in a thread of this process, with one bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
REGION = "eu-west-1"


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of a test's own on a server that listens at `endpoint`."""

    name: str
    endpoint: str  # host:port

    def uri(self, path: str) -> str:
        """The URI of an object, which says itself where the server is."""
        query = f"scheme=http&endpoint_override={self.endpoint}&region={REGION}"
        return f"s3://{self.name}/{path}?{query}"

    def plain_uri(self, path: str) -> str:
        """The URI for a process that knows the server by `environment`."""
        return f"s3://{self.name}/{path}"

    @property
    def environment(self) -> dict[str, str]:
        where = {"AWS_ENDPOINT_URL": f"http://{self.endpoint}", "AWS_DEFAULT_REGION": REGION}
        return CREDENTIALS | where

    def put(self, path: str, content: bytes) -> None:
        with self._filesystem().open_output_stream(f"{self.name}/{path}") as stream:
            stream.write(content)

    def get(self, path: str) -> bytes:
        with self._filesystem().open_input_stream(f"{self.name}/{path}") as stream:
            return bytes(stream.read())

    def paths(self, below: str = "") -> list[str]:
        """Of all objects, without the empty ones that stand for directories."""
        selector = fs.FileSelector(f"{self.name}/{below}".rstrip("/"), recursive=True)
        infos = self._filesystem().get_file_info(selector)
        prefix = len(self.name) + 1
        return sorted(info.path[prefix:] for info in infos if info.type == fs.FileType.File)

    def _filesystem(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key="test",
            secret_key="test",
            region=REGION,
            scheme="http",
            endpoint_override=self.endpoint,
        )


@contextmanager
def s3_server() -> Iterator[str]:
    """A server for the length of the block; yields host:port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
    finally:
        server.stop()


def make_bucket(endpoint: str, name: str) -> Bucket:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in CREDENTIALS.items():
            patch.setenv(variable, value)
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name=REGION)
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return Bucket(name, endpoint)
