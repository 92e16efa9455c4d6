"""The table of what a call costs on the host."""

from benchmarks import host_time


def test_every_case_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(host_time, "ROUNDS", 3)  # the first call of all takes long
    monkeypatch.setattr(host_time, "CALLS", 1)
    monkeypatch.setattr("sys.argv", ["host_time"])
    monkeypatch.setattr(host_time.torch, "set_num_threads", lambda count: None)
    host_time.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:24].strip() for line in lines[2:]] == ["forward", "forward with graph", "forward + backward"]
    for line in lines[2:]:
        *times, _ = map(float, line[24:].split())
        assert len(times) == 3 and min(times) > 0, line
