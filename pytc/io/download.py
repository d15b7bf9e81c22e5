"""Downloads that go on where they were interrupted, with checksums.

FILE.part grows beside FILE, and FILE.part.json names the state of the file on the server that it
comes from. The next call asks for the bytes that are left (HTTP Range), if the file on the server
is still the same (If-Range): otherwise the server sends all of it. pooch compares the checksum and
gives the file its name.
"""

import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytc.progress import Progress

LOGGER = logging.getLogger(__name__)
ATTEMPTS = 5  # at a connection that breaks off
WAIT = 2.0  # seconds before the second attempt; before each further one that much more
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 2**20
MEGABYTE = 10**6


class InterruptedDownloadError(OSError):
    """A connection broke off; what has come is kept."""


def download(url: str, checksum: str | None, file: Path) -> str:
    """Download a file, or take the one that is there if its checksum is right.

    Args:
        url: http:// or https://.
        checksum: "sha256:..." or "md5:...", or None where none is known.
        file: its name on this machine.

    Returns:
        The checksum: the one given, or sha256 of what has come.

    Raises:
        ValueError: the file has another checksum; it is removed.
        OSError: there is no such file, or no connection; a later call goes on.
        ImportError: pooch is not installed.
    """
    try:
        import pooch
    except ImportError:
        raise ImportError(
            "downloading data sets needs the extra `data`: pip install -e '.[data]' in a clone"
        ) from None
    pooch.get_logger().setLevel("WARNING")  # it tells users to note checksums: we do
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file() and checksum is not None and pooch.hashes.hash_matches(str(file), checksum):
        LOGGER.info(f"{file} is there, and has the checksum {checksum}")
        return checksum
    try:
        pooch.retrieve(
            url, checksum, fname=file.name, path=file.parent, downloader=ResumingDownloader(file)
        )
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise ValueError(
            f"expected {url} with the checksum {checksum}, got another file or a damaged one; it "
            "was removed, and the same command downloads it again"
        ) from error
    return checksum or f"sha256:{sha256(file)}"


def sha256(file: Path) -> str:
    """The checksum of a file, as 64 hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ResumingDownloader:
    """What pooch calls to download a URL; it keeps what has come in FILE.part.

    file: where the download will lie.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.part = file.with_name(f"{file.name}.part")
        self.notes = file.with_name(f"{file.name}.part.json")

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        """Download `url` to `output_file`, a path."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._go_on(url)
                break
            except InterruptedDownloadError as error:
                if attempt == ATTEMPTS:
                    raise
                LOGGER.info(f"{error}; going on ({attempt} of {ATTEMPTS - 1})")
                time.sleep(WAIT * attempt)
        os.replace(self.part, output_file)
        self.notes.unlink(missing_ok=True)

    def _go_on(self, url: str) -> None:
        """Fetch the bytes that are missing; InterruptedDownloadError if not all of them come."""
        have, validator = self._begun(url)
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", validator)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                self._save(url, answer, have)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the server has no more bytes than those that are here
                if error.headers.get("Content-Range", "") == f"bytes */{have}":
                    return
                self.part.unlink(missing_ok=True)
                raise InterruptedDownloadError(
                    f"{url} is shorter than the part that was downloaded"
                ) from error
            if error.code in (429, 500, 502, 503, 504):
                raise InterruptedDownloadError(f"{url}: {error.code} {error.reason}") from error
            raise OSError(f"{url}: {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise InterruptedDownloadError(f"{url}: {error.reason}") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise InterruptedDownloadError(f"{url}: the connection broke off ({error})") from error

    def _begun(self, url: str) -> tuple[int, str]:
        """How many bytes of the file are here, and what names its state on the server."""
        if not (self.part.is_file() and self.notes.is_file()):
            return 0, ""
        try:
            notes = json.loads(self.notes.read_text())
        except ValueError:  # ended while it was written
            return 0, ""
        if notes.get("url") != url or not notes.get("validator"):
            return 0, ""
        return self.part.stat().st_size, str(notes["validator"])

    def _save(self, url: str, answer: Any, have: int) -> None:
        first = 0
        if answer.status == 206:
            stated = answer.headers.get("Content-Range", "")
            if not stated.startswith(f"bytes {have}-"):
                self.part.unlink()
                raise InterruptedDownloadError(
                    f"{url}: other bytes than those asked for ({stated})"
                )
            first = have
            LOGGER.info(f"{self.name}: going on after {have / MEGABYTE:.1f} MB")
        elif have:
            LOGGER.info(f"{self.name}: the file has changed, or cannot be continued: starting anew")
        if not first:
            # the old part goes before its notes change, so that neither is taken for the other's
            self.part.unlink(missing_ok=True)
            notes = {"url": url, "validator": validator_of(answer.headers)}
            self.notes.write_text(json.dumps(notes))
        length = answer.headers.get("Content-Length")
        total = None if length is None else first + int(length)
        done = first
        megabytes = -(-(total or 0) // MEGABYTE)
        with (
            open(self.part, "ab") as part,
            Progress(f"downloading {self.name}", "MB", megabytes, first // MEGABYTE) as progress,
        ):
            while block := answer.read(BLOCK):
                part.write(block)
                done += len(block)
                if total and done // MEGABYTE > first // MEGABYTE:
                    progress.show(done // MEGABYTE)
        if total is not None and done < total:
            raise InterruptedDownloadError(
                f"{url}: the connection broke off after {done} of {total} bytes"
            )


def validator_of(headers: Mapping[str, str]) -> str | None:
    """What names the state of a file on a server, for If-Range; None if the server says nothing."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):  # a weak one does not promise the same bytes
        return tag
    return headers.get("Last-Modified")
