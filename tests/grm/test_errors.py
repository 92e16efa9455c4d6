"""What messages say of what files say."""

from grm.errors import printable, shown


def test_nothing_steers_a_terminal():
    assert printable("a\x1b[2Jb\rc\x9bd\u202e") == r"a\x1b[2Jb\rc\x9bd\u202e"
    assert printable("two\nlines: é 漢") == "two\nlines: é 漢"
    assert shown("one\nline") == r"one\nline"
    assert shown(b"\x00") == r"b'\x00'"


def test_passwords_are_not_shown():
    assert printable("rtsp://me:secret@camera/1: no answer") == "rtsp://***@camera/1: no answer"
    assert printable("http://host:80/a@b: 3") == "http://host:80/a@b: 3"


def test_passwords_end_at_the_last_sign():
    assert printable("rtsp://admin:p@ss@camera/1: no answer") == "rtsp://***@camera/1: no answer"
    assert printable("http://host:80/a@2x.mp4") == "http://host:80/a@2x.mp4"


def test_nothing_fills_a_terminal():
    assert printable("x" * 10**6) == "x" * 2000 + "..."
    assert shown("x" * 10**6) == "x" * 200 + "..."


def test_the_command_line_escapes_what_it_tells(grm, tmp_path):
    name = tmp_path / "clip\x1b[2J.mp4"
    status, _, err = grm("track", name, "--csv", tmp_path / "out.csv", "--box", "1,2,3,4")
    assert status == 1 and "\x1b" not in err and r"clip\x1b[2J.mp4: no such file or folder" in err
