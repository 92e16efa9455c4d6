"""Sources at addresses: videos over HTTP, streams over RTSP, and what is said where nobody answers."""

import socket
import socketserver
import struct
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from grm.errors import MediaError
from grm.media import frames as media
from grm.media.frames import open_frames

from .test_video import RATE, assert_same, collect, numbered_frames, write

# Of RTP: MPEG transport stream (RFC 3551, table 5), of which a packet holds 7 packets of 188 bytes.
TRANSPORT_STREAM, PAYLOAD = 33, 7 * 188


@contextmanager
def serving(server):
    """Serves from a thread; gives host and port."""
    with server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Camera(socketserver.StreamRequestHandler):
    """What a camera says by RTSP (RFC 2326): its stream is an MPEG transport stream, within the connection.

    After its last packet it hangs up, or says nothing more for some seconds.
    """

    stream, silent = b"", 0.0

    def handle(self):
        while request := self.request_lines():
            method, number = request[0].split()[0], next(x for x in request if x.lower().startswith("cseq"))
            heads, body = ["RTSP/1.0 200 OK", number, "Session: 1"], ""
            if method == "DESCRIBE":
                body = f"v=0\r\ns=camera\r\nm=video 0 RTP/AVP {TRANSPORT_STREAM}\r\na=control:track\r\n"
                heads += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            if method == "SETUP":
                heads.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            self.wfile.write("\r\n".join([*heads, "", body]).encode())
            if method == "PLAY":
                self.play()
                return

    def request_lines(self):
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines

    def play(self):
        for number, place in enumerate(range(0, len(self.stream), PAYLOAD)):
            part = self.stream[place : place + PAYLOAD]
            header = struct.pack(">BBHII", 0x80, TRANSPORT_STREAM, number, 0, 1)
            try:
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(part)) + header + part)
            except OSError:  # the other has hung up
                return
        time.sleep(self.silent)


class Silent(socketserver.BaseRequestHandler):
    """Takes calls, and says nothing for as long as the other waits."""

    def handle(self):
        while self.request.recv(1000):
            pass


class Folder(SimpleHTTPRequestHandler):
    """The files of a folder."""

    def log_message(self, *_): ...


def tcp(handler):
    return socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)


@pytest.mark.parametrize("source", ["rtmp://x", "RTSPS://x", "file:///etc/passwd", "concat://a"])
def test_addresses_are_named_as_what_they_are(source):
    kind = source.partition(":")[0]
    with pytest.raises(MediaError, match=rf"{kind} is not read, http, https, rtsp are; or record it to a file first"):
        open_frames(source)


def test_a_video_at_an_address(tmp_path):
    expected = numbered_frames(12)
    write(tmp_path / "clip.mkv", expected)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(Folder, directory=str(tmp_path)))) as host:
        frames = open_frames(f"http://{host}/clip.mkv")
        assert (frames.name, frames.rate, frames.endless) == ("clip", RATE, True)
        assert_same(frames, expected)
        with pytest.raises(MediaError, match=rf"http://{host}/none\.mkv: not a video that can be read: .*404"):
            open_frames(f"http://{host}/none.mkv")
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path}/clip.mkv\n#EXT-X-ENDLIST\n")
        with pytest.raises(MediaError):
            list(open_frames(f"http://{host}/list.m3u8"))


def test_a_stream_of_a_camera(tmp_path):
    expected = numbered_frames(60)
    stream = write(tmp_path / "clip.ts", expected).read_bytes()
    with serving(tcp(type("Short", (Camera,), {"stream": stream}))) as host:
        frames = open_frames(f"rtsp://{host}/live/1")
        assert (frames.name, frames.rate, frames.endless) == ("1", RATE, True)
        got = list(frames)
    assert len(got) >= 50  # a stream that breaks off ends somewhere in its last packets
    assert_same(got, expected[: len(got)])


def test_a_camera_that_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "_TIMEOUT", 0.5)
    stream = write(tmp_path / "clip.ts", numbered_frames(60)).read_bytes()
    got = []
    with serving(tcp(type("Hanging", (Camera,), {"stream": stream, "silent": 60.0}))) as host:
        with pytest.raises(MediaError, match=rf"rtsp://{host}/1: nothing more came for 0\.5 seconds"):
            collect(open_frames(f"rtsp://{host}/1"), got)
    assert len(got) >= 50


@pytest.mark.parametrize("kind", ["http", "rtsp"])
def test_nobody_answers(kind, monkeypatch):
    monkeypatch.setattr(media, "_TIMEOUT", 0.3)
    with serving(tcp(Silent)) as host:
        with pytest.raises(MediaError, match=rf"{kind}://{host}/1: no answer within 0\.3 seconds"):
            open_frames(f"{kind}://{host}/1")
    with socket.socket() as taken:  # bound, so that nobody else gets the port, and not listening
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MediaError, match=rf"{kind}://{host}/1: not a video that can be read: Connection refused"):
            open_frames(f"{kind}://{host}/1")
    with pytest.raises(MediaError, match=r"\[x: not an address"):
        open_frames(f"{kind}://[x")
    with pytest.raises(MediaError, match=rf"{kind}://nowhere\.invalid/1: there is no host nowhere\.invalid"):
        open_frames(f"{kind}://nowhere.invalid/1")
