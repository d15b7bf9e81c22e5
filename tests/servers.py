"""Servers on this machine that stand in for those elsewhere: a static one, and moto's S3."""

import hashlib
import os
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "bucket"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@contextmanager
def static_server(folder):
    """Serves the files of a folder; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Open(Silent):
    """Lets pages of other servers read, as a server of volumes does; it notes what they read."""

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@contextmanager
def open_server(folder):
    """Serves the files of a folder to any page; yields its URL, and the list of what was read."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Open, directory=str(folder)))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server.asked
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def s3_server():
    """An S3 server with an empty bucket, which this process then uses; yields the bucket's URL."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    aws = {name: None for name in os.environ if name.startswith("AWS_")}
    aws |= {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret"}
    aws["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.items():
            patch.delenv(name, raising=False)
            if value:
                patch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


class Ranges(Silent):
    """Answers Range and If-Range, as servers of data do, and breaks off where a test says so."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"' if self.server.has_tags else None
        first, status = 0, 200
        asked = self.headers.get("Range")
        if asked and self.server.has_ranges and self.headers.get("If-Range") in (None, tag):
            first, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - first))
        if tag:
            self.send_header("ETag", tag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        sent = content[first:]
        if self.server.breaks:  # one entry for each connection: how many bytes it lives for
            sent = sent[: self.server.breaks.pop(0)]
        self.wfile.write(sent)
        self.close_connection = True


@contextmanager
def range_server(folder):
    """Serves the files of a folder, with Range; yields the server.

    Its attributes: url; asked, the path and the Range of each request; breaks, after how many bytes
    the next connections break off; has_tags and has_ranges, which a server may lack.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.breaks, server.has_tags, server.has_ranges = [], [], True, True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
