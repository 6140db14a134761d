#!/usr/bin/env python3
"""`megalodon data get` against a server on the loopback that behaves as servers do, and as they should not.

usage: data_get_test.py PATH_TO_MEGALODON
"""
import hashlib
import http.server
import io
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
import zipfile

PROGRAM = os.path.abspath(sys.argv.pop(1))
CONTENT = bytes(range(256)) * 12000  # 3 MB, above every buffer's size


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by what `server.behaviour` says of a path, and notes each request in `server.requests`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked, self.headers.get("If-Range")))
        behaviour = self.server.behaviour.get(self.path)
        if behaviour is None:
            return self.send_plain(404, b"no such file")
        try:
            behaviour(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send_plain(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """The program breaks connections off on purpose."""


def serve(content=CONTENT, etag='"v1"', cut=None, stall=None, if_range=True, ranges=True):
    """A behaviour. `cut`: the connection breaks after so many bytes of a response; `stall`: nothing follows them until
    the event is set; `if_range`, `ranges`: whether the server knows these headers."""

    def respond(handler):
        begin, status, headers = 0, 200, {}
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if asked and ranges and (not if_range or condition is None or condition == etag):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                return handler.send_plain(416, Content_Range=f"bytes */{len(content)}", ETag=etag or '"x"')
            status, headers = 206, {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        body = content[begin:]
        handler.send_response(status)
        if etag:
            handler.send_header("ETag", etag)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        limit = cut if cut is not None else stall[0] if stall else len(body)
        handler.wfile.write(body[:limit])
        handler.wfile.flush()
        if stall:
            stall[1].wait()
        if limit < len(body):
            handler.close_connection = True

    return respond


def redirect(target):
    return lambda handler: handler.send_plain(302, Location=target)


def in_turn(*behaviours):
    """One behaviour for each request, the last for all that follow."""
    left = list(behaviours)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


class DataGet(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.requests, self.server.behaviour = [], {}
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.release = threading.Event()

    def tearDown(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    @property
    def part(self):
        return self.path / "out/download/file.bin.part"

    @property
    def target(self):
        return self.path / "out/download/file.bin"

    def catalog(self, content=CONTENT, urls=None, path="file.bin", **more):
        """Writes a catalogue of one set "mine" with one file."""
        file = {"path": path, "urls": urls or [f"{self.url}/{path}"]}
        if content is not None:
            file |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        file |= more.pop("file", {})
        sets = {"mine": {"description": "of the test", "licence": "CC0-1.0", "files": [file], **more}}
        (self.path / "catalog.json").write_text(json.dumps(sets))

    def command(self, *more, timeout=1):
        return [PROGRAM, "data", "get", "mine", "--catalog", "catalog.json", "--output", "out", "--timeout", str(timeout),
                *more]

    def get(self, *more, code=0, **options):
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"no_proxy": "*"}
        done = subprocess.run(self.command(*more), cwd=self.path, capture_output=True, timeout=120, text=True,
                              env=environment, **options)
        self.assertEqual(done.returncode, code, f"{done.stdout}\n{done.stderr}")
        if code != 0:
            self.assertEqual(done.stderr.count("\n"), 1, f"one line is expected of an error: {done.stderr}")
        return done.stdout + done.stderr

    def expect_whole(self, content=CONTENT):
        self.assertEqual(self.target.read_bytes(), content)
        self.assertEqual([p.name for p in self.target.parent.iterdir() if ".part" in p.name], [])

    # ---- what goes well

    def test_download_and_again(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve()
        output = self.get()
        self.assertIn("CC0-1.0", output)
        self.expect_whole()
        self.get()
        self.assertEqual(len(self.server.requests), 1, "what is there and whole is not downloaded again")

    def test_redirect(self):
        self.catalog()
        self.server.behaviour = {"/file.bin": redirect("/b"), "/b": redirect(f"{self.url}/c"), "/c": serve()}
        self.get()
        self.expect_whole()

    def test_broken_transfer_continues(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(cut=1000000), serve(cut=1000000), serve())
        self.get()
        self.expect_whole()
        self.assertEqual([r[1:] for r in self.server.requests],
                         [(None, None), ("bytes=1000000-", '"v1"'), ("bytes=2000000-", '"v1"')])

    def test_next_run_continues(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(cut=100000)
        self.assertIn("file.bin", self.get(code=1))
        self.assertEqual(self.part.read_bytes(), CONTENT[:300000])
        self.server.behaviour["/file.bin"] = serve()
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1], "bytes=300000-")

    def test_changed_file_starts_anew(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(b"x" * len(CONTENT), '"v0"', cut=100000), serve())
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1:], ("bytes=100000-", '"v0"'))

    def test_changed_file_where_if_range_is_unknown(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(b"x" * len(CONTENT), '"v0"', cut=100000),
                                                     serve(if_range=False))
        self.get()
        self.expect_whole()
        self.assertEqual([r[1] for r in self.server.requests], [None, "bytes=100000-", None])

    def test_without_etag_starts_anew(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(etag=None, cut=100000), serve())
        self.get()
        self.expect_whole()
        self.assertEqual([r[1] for r in self.server.requests], [None, None])

    def test_server_without_ranges(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(cut=100000), serve(ranges=False))
        self.get()
        self.expect_whole()

    def test_whole_part_needs_no_server(self):
        self.catalog()
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(CONTENT)
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests, [])

    def test_unknown_size_and_hash(self):
        self.catalog(None, file={"max_bytes": 5000000})
        self.server.behaviour["/file.bin"] = serve()
        self.assertIn(hashlib.sha256(CONTENT).hexdigest(), self.get())
        self.expect_whole()
        # The part of a run that ended just before the renaming: the server has nothing to add.
        self.target.rename(self.part)
        (self.path / "out/download/file.bin.part.json").write_text(
            json.dumps({"url": f"{self.url}/file.bin", "validator": '"v1"'}))
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1], f"bytes={len(CONTENT)}-")
        # Another file than the first.
        self.target.unlink()
        self.server.behaviour["/file.bin"] = serve(b"another")
        self.assertIn("earlier download", self.get(code=1))

    def test_next_url(self):
        good = f"{self.url}/good"
        for bad in (serve(b"y" * len(CONTENT)), serve(CONTENT + b"more"), serve(b"short"), serve(b""),
                    lambda handler: handler.send_plain(503, b"busy"), redirect("file:///etc/passwd")):
            with self.subTest():
                self.catalog(urls=[f"{self.url}/bad", good])
                self.server.behaviour = {"/bad": bad, "/good": serve()}
                self.get()
                self.expect_whole()
                self.target.unlink()

    # ---- what does not

    def test_wrong_hash(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(b"z" * len(CONTENT))
        message = self.get(code=1)
        self.assertIn(hashlib.sha256(CONTENT).hexdigest(), message)
        self.assertIn(hashlib.sha256(b"z" * len(CONTENT)).hexdigest(), message)
        self.assertFalse(self.target.exists())
        self.assertFalse(self.part.exists())

    def test_wrong_size_is_refused_before_the_body(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(CONTENT + b"more")
        self.assertIn(f"offers {len(CONTENT) + 4} bytes, expected {len(CONTENT)}", self.get(code=1))
        self.assertFalse(self.target.exists())

    def test_too_large(self):
        self.catalog(None, file={"max_bytes": 1000})
        self.server.behaviour["/file.bin"] = serve()
        self.assertIn("the limit is 1000", self.get(code=1))

        def without_length(handler):
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(CONTENT)

        self.server.behaviour["/file.bin"] = without_length
        self.assertIn("more than 1000 bytes", self.get(code=1))
        self.assertFalse(self.part.exists())

    def test_truncated_body(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(cut=1000, ranges=False)
        self.get(code=1)
        self.assertFalse(self.target.exists())
        self.assertEqual(len(self.server.requests), 3, "three attempts, as each brought bytes")

    def test_stall(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = in_turn(serve(stall=(1000, self.release)), serve())
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1], "bytes=1000-")

    def test_missing_and_offline(self):
        closed = "http://127.0.0.1:9"  # the discard service, which nothing offers
        self.catalog(urls=[f"{self.url}/file.bin", f"{closed}/file.bin"])
        message = self.get(code=1)
        for part in ("HTTP status 404", f"{closed}/file.bin", "connect", "--from"):
            self.assertIn(part, message)

    def test_redirects_that_are_refused(self):
        secret = self.path / "secret"
        secret.write_bytes(CONTENT)
        for target in (secret.as_uri(), "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"):
            self.catalog()
            self.server.behaviour["/file.bin"] = redirect(target)
            self.assertIn("rotocol", self.get(code=1))
            self.assertFalse(self.target.exists())
        self.server.behaviour["/file.bin"] = redirect("/file.bin")
        self.assertIn("redirects", self.get(code=1))

    def test_catalogue_of_other_protocols(self):
        self.catalog(urls=["file:///etc/passwd"])
        self.assertIn("https://", self.get(code=1))

    def test_part_that_is_a_link(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve()
        self.part.parent.mkdir(parents=True)
        victim = self.path / "victim"
        victim.write_text("precious")
        self.part.symlink_to(victim)
        self.get(code=1)
        self.assertEqual(victim.read_text(), "precious")

    def test_disk_full(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve()
        # The kernel's answer to a file that may not grow further stands for that of a full disk: write() fails.
        limit = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
                         resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000)))
        message = self.get(code=1, preexec_fn=limit, restore_signals=False)
        self.assertIn("cannot write", message)
        self.assertIn("too large", message)
        self.assertEqual(self.part.stat().st_size, 1000000)
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1], "bytes=1000000-")

    def test_disk_that_is_known_to_be_too_small(self):
        self.catalog(file={"size": 1 << 49})
        self.assertIn("has", self.get(code=1))
        self.assertEqual(self.server.requests, [])

    def interrupted(self, signals):
        """Starts a download that stalls in the middle and sends it the signals; returns its exit code."""
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(stall=(1000000, self.release))
        process = subprocess.Popen(self.command(timeout=60), cwd=self.path, stderr=subprocess.PIPE)
        while not self.part.exists() or self.part.stat().st_size < 1000000:
            self.assertIsNone(process.poll())
        for each in signals:
            process.send_signal(each)
        _, message = process.communicate(timeout=60)
        self.assertEqual(self.part.read_bytes(), CONTENT[:1000000])
        self.server.behaviour["/file.bin"] = serve()
        self.get()
        self.expect_whole()
        self.assertEqual(self.server.requests[-1][1], "bytes=1000000-")
        return process.returncode, message.decode()

    def test_interrupts(self):
        code, message = self.interrupted([signal.SIGINT])
        self.assertEqual(code, 130)
        self.assertIn("interrupted", message)

    def test_kill(self):
        self.assertEqual(self.interrupted([signal.SIGKILL])[0], -signal.SIGKILL)

    def test_two_at_once(self):
        self.catalog()
        self.server.behaviour["/file.bin"] = serve(stall=(1000000, self.release))
        with subprocess.Popen(self.command(timeout=60), cwd=self.path, stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as first:
            while not self.part.exists() or self.part.stat().st_size < 1000000:
                self.assertIsNone(first.poll())
            self.assertIn("another process", self.get(code=1))
            first.kill()

    # ---- archives and text

    def test_text_set(self):
        text = "".join(f"line {i} of a text that is divided\n" for i in range(1000)).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner", text)
        source = "raw/text/inner"
        self.catalog(buffer.getvalue(), path="text.zip", unpack=True, unpacked_bytes=len(text),
                     text={"train": {"source": source, "end": 20000},
                           "valid": {"source": source, "begin": 20000, "end": 30000},
                           "test": {"source": source, "begin": 30000}})
        self.server.behaviour["/text.zip"] = serve(buffer.getvalue())
        output = self.get()
        self.assertIn("out/train: 1 documents, 20,000 tokens", output)
        self.assertEqual((self.path / "out/valid.bin").read_bytes(), text[20000:30000])
        self.assertEqual((self.path / "out/test.bin").read_bytes(), text[30000:])
        info = subprocess.run([PROGRAM, "data", "info", "out/train"], cwd=self.path, capture_output=True, text=True)
        self.assertEqual(info.returncode, 0, info.stderr)

    def test_hostile_archive(self):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            door = tarfile.TarInfo("door")
            door.type, door.linkname = tarfile.SYMTYPE, str(self.path)
            archive.addfile(door)
            inner = tarfile.TarInfo("door/escaped")
            inner.size = 1
            archive.addfile(inner, io.BytesIO(b"x"))
        self.catalog(buffer.getvalue(), path="a.tar.gz", unpack=True)
        self.server.behaviour["/a.tar.gz"] = serve(buffer.getvalue())
        self.assertIn("link", self.get(code=1))
        self.assertFalse((self.path / "escaped").exists())
        self.assertEqual(list((self.path / "out/raw").iterdir()), [])

    def test_from(self):
        self.catalog(urls=["http://127.0.0.1:9/file.bin"])
        (self.path / "mine.bin").write_bytes(CONTENT)
        self.get("--from", "mine.bin")
        self.expect_whole()
        self.target.unlink()
        (self.path / "mine.bin").write_bytes(CONTENT[:-1] + b"!")
        self.assertIn("SHA-256", self.get("--from", "mine.bin", code=1))
        self.assertFalse(self.target.exists())

    def test_list_and_unknown_name(self):
        done = subprocess.run([PROGRAM, "data", "get", "--list"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("gcide", "enwik8", "text8", "wikitext-103", "pg19-sample", "lra", "imdb", "speech-commands",
                     "cifar-10", "scrolls"):
            self.assertIn(f"\n{name} ", done.stdout)
        done = subprocess.run([PROGRAM, "data", "get", "enwik7"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("enwik8", done.stderr)


if __name__ == "__main__":
    unittest.main()
