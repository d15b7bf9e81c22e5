"""Folders by URL: s3://, gs://, http:// and https://, through tensorstore's key-value stores.

A folder elsewhere has the few methods of a path that this package needs, so that a format is read
in the same way wherever it lies. Every read goes through tensorstore, the first when a volume is
opened: a process that has opened one has to start its workers by `forkserver` or `spawn`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from pytc.checks import require

SCHEMES = ("s3", "gs", "http", "https")
PRECOMPUTED = "precomputed://"  # as neuroglancer writes it before a path or a URL
# A server that is away for a moment is asked again, for about ten seconds in all.
RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}
# One of these says that there may be more credentials than AWS_ACCESS_KEY_ID.
AWS_SETTINGS = (
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder, or a file, that a URL names.

    Attributes:
        root: what comes before the path, e.g. "s3://bucket" or "https://host:8000".
        parts: the names on the path, as `pathlib` has them but without the root.
    """

    root: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join((self.root, *self.parts))

    def __truediv__(self, name: str) -> RemoteFolder:
        names = [part for part in name.split("/") if part not in ("", ".")]
        return RemoteFolder(self.root, (*self.parts, *names))

    @property
    def parents(self) -> list[RemoteFolder]:
        """The folders above it, the nearest first, down to the root."""
        above = range(len(self.parts) - 1, -1, -1)
        return [RemoteFolder(self.root, self.parts[:count]) for count in above]

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def scheme(self) -> str:
        return self.root.partition("://")[0]

    def require_writable(self) -> None:
        """ValueError where files are only read."""
        writable = self.scheme in ("s3", "gs")
        require(writable, "s3:// or gs:// to write to", f"{self}, which is only read")

    def key_value_store(self) -> dict[str, Any]:
        """tensorstore's description of the folder, with endpoint and credentials."""
        path = "".join(f"{part}/" for part in self.parts)
        if self.scheme in ("http", "https"):
            return {"driver": "http", "base_url": self.root, "path": f"/{path}"} | _retries("http")
        bucket = self.root.partition("://")[2]
        if self.scheme == "gs":
            return {"driver": "gcs", "bucket": bucket, "path": path} | _retries("gcs")
        return {"driver": "s3", "bucket": bucket, "path": path} | _aws() | _retries("s3")

    def read(self, name: str) -> bytes | None:
        """The content of a file in the folder.

        None without the file, and where it may not be read: a bucket whose files may not be listed
        answers so for a file that does not exist.
        """
        try:
            found = self._open().read(name).result()
        except ValueError as error:
            if "PERMISSION_DENIED" in str(error) or "403" in str(error):
                return None
            self._explain(error)
        except (OSError, RuntimeError, TimeoutError) as error:
            self._explain(error)
        return found.value if found.state == "value" else None

    def write(self, name: str, content: str) -> None:
        """Write a file in the folder, replacing one of that name; ValueError if it cannot be."""
        self._change(lambda store: store.write(name, content.encode()))

    def delete(self, *first: str) -> None:
        """Delete all files in the folder and below it; before all others those of these names."""
        import tensorstore

        for name in first:
            self._change(lambda store, name=name: store.write(name, None))
        everything = tensorstore.KvStore.KeyRange()
        self._change(lambda store: store.delete_range(everything))

    def _change(self, change: Any) -> None:
        self.require_writable()
        try:
            change(self._open()).result()
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            self._explain(error)

    def _open(self) -> Any:
        import tensorstore

        return tensorstore.KvStore.open(self.key_value_store()).result()

    def _explain(self, error: Exception) -> NoReturn:
        raise ValueError(f"expected to reach {self}, got {error}") from error


Folder = Path | RemoteFolder


def is_url(path: str) -> bool:
    """Whether a path names something elsewhere; file:// does not."""
    return "://" in path.removeprefix(PRECOMPUTED) and not _plain(path).startswith("file://")


def parse_folder(path: str) -> Folder:
    """What a path or a URL names; file:// is a local path, and precomputed:// may come before each.

    Raises:
        ValueError: the URL has another scheme, or lacks a bucket or host.
    """
    plain = _plain(path)
    if not is_url(path):
        return Path(plain_path(plain))
    scheme, _, rest = plain.partition("://")
    schemes = ", ".join(f"{name}://" for name in (*SCHEMES, "file"))
    require(scheme in SCHEMES, f"a local path, or a URL that begins with {schemes}", path)
    host, _, inside = rest.partition("/")
    require(bool(host), "a URL with a bucket or a host", path)
    web = scheme in ("http", "https")
    require(not (web and re.search("[?#]", inside)), "a URL without ? or #", path)
    return RemoteFolder(f"{scheme}://{host}") / (unquote(inside) if web else inside)


def local_path(folder: Folder) -> Path:
    """A path of this machine as a `Path`; ValueError for a folder elsewhere."""
    if isinstance(folder, RemoteFolder):
        raise ValueError(f"expected a path on this machine, got {folder}")
    return folder


def plain_path(path: str) -> str:
    """A path on this machine where it is given as file://, with what follows its colon."""
    if not _plain(path).startswith("file://"):
        return path
    return unquote(urlsplit(_plain(path)).path)


def _plain(path: str) -> str:
    return path.removeprefix(PRECOMPUTED)


def _retries(driver: str) -> dict[str, Any]:
    return {"context": {f"{driver}_request_retries": RETRIES}}


def _aws() -> dict[str, Any]:
    """Endpoint, region and credentials, by the environment variables of AWS's programs."""
    settings: dict[str, Any] = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        settings["endpoint"] = endpoint
        region = region or "us-east-1"  # of a server that is not Amazon's, any will do
    if region:
        settings["aws_region"] = region
    credentials = "anonymous"
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        credentials = "environment"
    elif any(map(os.environ.get, AWS_SETTINGS)) or Path("~/.aws").expanduser().is_dir():
        credentials = "default"
    return settings | {"aws_credentials": {"type": credentials}}
