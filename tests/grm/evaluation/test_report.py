"""Reports: what is compared, what tables say, and one page that holds it all."""

import base64
import csv
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from grm.config import SyntheticConfig
from grm.errors import ConfigError, DataError, GrmError
from grm.evaluation.page import html_page, plot
from grm.evaluation.rendering import (
    attribute_cells,
    cells,
    csv_text,
    header,
    json_values,
    markdown,
    sequence_cells,
    title,
)
from grm.evaluation.report import compare, open_results_benchmark, parse_entries, read_attributes
from grm.evaluation.results import Results, RunFolder

from ..data.trees import write_got10k
from .scenes import Clip, trajectory

CLIPS = [Clip(f"clip-{i}", count=6 + i) for i in range(5)]


def write_run(folder, shifts, label="ours", benchmark="folder", clips=CLIPS):
    """A run whose boxes of each clip are so many pixels off."""
    run = RunFolder(folder, {"benchmark": benchmark}, {"tracker": label, "benchmark": benchmark, "root": "/data"})
    for clip, shift in zip(clips, shifts, strict=True):
        run.write(clip, trajectory(clip, shift))
    return folder


def write_flat(folder, shifts, prefix="", clips=CLIPS):
    folder.mkdir()
    for clip, shift in zip(clips, shifts, strict=False):
        np.savetxt(folder / f"{prefix}{clip.name}.txt", trajectory(clip, shift).boxes, delimiter="\t", fmt="%g")
    return folder


@pytest.fixture
def comparison(tmp_path):
    """Two trackers, the second better in four clips and much worse in one."""
    first = Results(write_run(tmp_path / "run", [2, 2, 2, 2, 2]))
    second = Results(write_flat(tmp_path / "flat", [1, 1, 1, 1, 200]), "<theirs> & | co")
    return compare(
        "folder", [first, second], CLIPS, "all-frames", attributes={"fast": ["clip-0", "clip-4"], "none": ["other"]}
    )


def test_table(comparison):
    assert title(comparison) == "folder, all-frames, 5 sequences"
    assert header(comparison) == ["tracker", "AUC", "P norm", "P", "OP50", "OP75", "AUC - ours", "frames/s"]
    ours, theirs = cells(comparison)
    # Two pixels of twenty: 18 of 22, above 17 of 21 thresholds in all frames but the first, which is above 20.
    auc = np.mean([(20 + 17 * (len(clip) - 1)) / 21 / len(clip) for clip in CLIPS])
    assert ours[:2] == ["ours", f"{100 * auc:.1f}"] and ours[-2:] == ["", "2.0"]
    assert theirs[0] == "<theirs> & | co" and theirs[-1] == ""
    gap = comparison.rows[1].gap
    assert theirs[-2] == f"{100 * gap.mean:+.1f} ± {100 * gap.error:.1f} (noise)" and gap.is_noise


def test_differences_that_are_more_than_noise(tmp_path):
    results = [Results(write_flat(tmp_path / f"{s}", [s] * 5)) for s in (2, 1)]
    assert "(noise)" not in cells(compare("folder", results, CLIPS, "all-frames"))[1][-2]


def test_what_a_score_is_worth(tmp_path):
    """Of a run of ours; a tool that leaves none has none."""
    clips = [Clip("a", 6, absent=(3,)), Clip("b", 6)]
    run = RunFolder(tmp_path / "run", {"benchmark": "folder"}, {"tracker": "ours", "benchmark": "folder"})
    for clip, shift in zip(clips, (0, 200), strict=True):
        path = trajectory(clip, shift)
        scores = np.where(np.arange(6) == 3, 0.1, 0.9) if shift == 0 else np.full(6, 0.2)
        scores[0] = np.nan
        run.write(clip, path._replace(scores=scores))
    other = Results(write_flat(tmp_path / "flat", [0, 0], clips=clips))
    compared = compare("folder", [Results(run.folder), other], clips, "all-frames")
    # Held: all of the first clip but the given frame and the absent one, with running means of 0.9, 0.9, 0.732 and
    # 0.7824; the absent one has 0.66. The other clip is lost.
    expected = (4, 6, 1.0, 0.732, 1.0, 0.0, 0.732, 0.732)
    assert compared.rows[0].presence == pytest.approx(expected) and compared.rows[1].presence is None
    assert "running mean of ours's score: ROC AUC 1.000 (4 frames held, 6 not)" in markdown([compared])
    assert json_values([compared])[0]["trackers"][0]["score"]["threshold"] == pytest.approx(0.732)


def test_sequences_by_difference(comparison):
    headings, rows = sequence_cells(comparison)
    assert headings == ["sequence", "ours", "<theirs> & | co", "<theirs> & | co - ours"]
    assert rows[0][0] == "clip-4" and rows[0][3].startswith("-") and all(row[3].startswith("+") for row in rows[1:])
    assert len(sequence_cells(comparison, most=2)[1]) == 2


def test_attributes(comparison, tmp_path):
    headings, rows = attribute_cells(comparison)
    assert headings[:2] == ["attribute", "sequences"] and [row[:2] for row in rows] == [["fast", "2"]]
    each = [comparison.rows[0].sequences[i].figures["AUC"] for i in (0, 4)]
    assert rows[0][2] == f"{100 * np.mean(each):.1f}"
    (tmp_path / "attributes.txt").write_text("clip-0,fast, small\nclip-1,small\n")
    assert read_attributes(tmp_path / "attributes.txt") == {"fast": ["clip-0"], "small": ["clip-0", "clip-1"]}
    (tmp_path / "attributes.txt").write_text("clip-0\n")
    with pytest.raises(DataError, match=r"attributes.txt: expected NAME,ATTRIBUTE"):
        read_attributes(tmp_path / "attributes.txt")


def test_sequences_that_a_tracker_lacks_are_left_out_for_all(tmp_path):
    first, second = Results(write_run(tmp_path / "run", [0] * 5)), Results(write_flat(tmp_path / "flat", [0] * 3))
    compared = compare("folder", [first, second], CLIPS, "all-frames")
    assert compared.names == ["clip-0", "clip-1", "clip-2"]
    assert title(compared) == "folder, all-frames, 3 of 5 sequences"
    assert compared.notes == ["flat has no results of 2 sequences, which are left out for all: clip-3, clip-4"]
    assert compared.notes[0] in markdown([compared]) and compared.notes[0] in html_page([compared])
    other = Results(write_flat(tmp_path / "other", [0], clips=[Clip("elsewhere")]))
    with pytest.raises(DataError, match="no sequence with a truth that all trackers can be compared on"):
        compare("folder", [first, other], CLIPS, "all-frames")


def test_sequences_that_cannot_be_read_are_left_out(tmp_path):
    """Boxes are read late: one broken file does not end a report of all others."""

    class Broken(Clip):
        @property
        def boxes(self):
            raise DataError("clip-1.txt: 5 boxes for 4 images")

        @boxes.setter
        def boxes(self, values):
            pass

    broken = Broken.__new__(Broken)
    broken.name = "clip-1"
    results = Results(write_run(tmp_path / "run", [0] * 5))
    compared = compare("folder", [results], [CLIPS[0], broken, *CLIPS[2:]], "all-frames")
    assert compared.names == ["clip-0", "clip-2", "clip-3", "clip-4"]
    assert compared.notes == ["left out: clip-1.txt: 5 boxes for 4 images"]
    with pytest.raises(DataError, match=r"no sequence with a truth .*; left out: clip-1.txt: 5 boxes for 4 images"):
        compare("folder", [results], [broken], "all-frames")


def test_results_of_more_frames_than_there_are(tmp_path):
    results = Results(write_run(tmp_path / "run", [0] * 5))
    shorter = [Clip(clip.name, count=len(clip) - 2, absent=(2,)) for clip in CLIPS]
    found = compare("folder", [results], shorter, "all-frames").rows[0].presence
    assert found.held + found.other == sum(len(clip) - 1 for clip in shorter)


def test_attributes_of_which_no_frame_counts(tmp_path):
    """GOT-10k weighs sequences by their frames that count."""
    write_got10k(tmp_path / "data", "val", count=6, sequences=2)
    sequences = open_results_benchmark("got10k-val", [], tmp_path / "data", None)
    (sequences[1].folder / "cover.label").write_text("0\n" * 6)
    flat = write_flat(tmp_path / "flat", [0, 0], clips=sequences)
    attributes = {"seen": [sequences[0].name], "hidden": [sequences[1].name]}
    compared = compare("got10k-val", [Results(flat)], sequences, "all-frames", attributes=attributes)
    assert [row[0] for row in attribute_cells(compared)[1]] == ["seen"]


def test_names_with_another_tools_prefix(tmp_path):
    results = Results(write_flat(tmp_path / "flat", [0] * 5, prefix="nfs_"))
    assert len(compare("nfs30", [results], CLIPS, "all-frames").names) == 5
    with pytest.raises(DataError, match="no sequence"):
        compare("lasot", [results], CLIPS, "all-frames")


def test_results_of_another_video(tmp_path):
    results = Results(write_run(tmp_path / "run", [0] * 5))
    moved = [Clip(clip.name, count=len(clip), start=7) for clip in CLIPS]
    with pytest.raises(DataError, match=r"left out: .*clip-0: the results are of another video of that name"):
        compare("folder", [results], moved, "all-frames")


def test_results_that_cannot_be_read_are_left_out_for_all(tmp_path):
    """A tool that failed in one sequence wrote half of it."""
    whole, half = Results(write_run(tmp_path / "run", [0] * 5)), write_flat(tmp_path / "flat", [0] * 5)
    (half / "clip-1.txt").write_text("1,2,3,4\n")
    compared = compare("folder", [whole, Results(half)], CLIPS, "all-frames")
    assert compared.names == ["clip-0", "clip-2", "clip-3", "clip-4"]
    assert [len(row.sequences) for row in compared.rows] == [4, 4]
    assert compared.notes == [f"left out: {half}: clip-1: 1 boxes for 7 frames"]


def test_markdown_and_csv_and_json(comparison):
    text = markdown([comparison])
    assert (
        "**folder, all-frames, 5 sequences**" in text and "| <theirs> & \\| co |" in text and "standard error" in text
    )
    lines = [line for line in text.splitlines() if line.startswith("| ours")]
    assert lines[0].split("|")[1:-1] == [f" {cell} " for cell in cells(comparison)[0]]
    rows = list(csv.DictReader(io.StringIO(csv_text([comparison]))))
    assert len(rows) == 2 * 5 * (1 + 5)
    auc = next(row for row in rows if (row["tracker"], row["sequence"], row["figure"]) == ("ours", "", "AUC"))
    assert float(auc["value"]) == comparison.rows[0].score.figures["AUC"]
    values = json.loads(json.dumps(json_values([comparison]), allow_nan=False))[0]
    assert values["protocol"] == "all-frames" and values["trackers"][1]["difference_to_first"]["noise"] is True
    assert values["trackers"][0]["by_sequence"]["clip-3"] == comparison.rows[0].sequences[3].figures
    assert len(values["trackers"][0]["curves"]["precision"]) == 51


class Page(HTMLParser):
    """What is in a page; that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.texts, self.links = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "img":
            self.images.append((attributes["alt"], attributes["src"]))
        if tag not in ("img", "meta"):  # the elements that have no end
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_page_holds_everything(comparison):
    page = Page(html_page([comparison], frames=2))
    for cell in ("<theirs> & | co", cells(comparison)[1][-2], "clip-4", "fast", "folder, all-frames, 5 sequences"):
        assert cell in page.texts
    assert page.links and all(link.startswith("data:") for link in page.links)
    kinds = [source.partition(",")[0] for _, source in page.images]
    assert kinds == ["data:image/svg+xml;base64"] * 3 + ["data:image/jpeg;base64"] * 2
    for _, source in page.images[:3]:
        assert ElementTree.fromstring(base64.b64decode(source.partition(",")[2])).tag.endswith("svg")
    # The frame of the largest difference: a later one than the first, of the clip that the second tracker lost.
    assert page.images[3][0].startswith("clip-4, frame ") and "ours 82, <theirs> & | co 0" in page.images[3][0]
    frame = cv2.imdecode(
        np.frombuffer(base64.b64decode(page.images[3][1].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    assert frame.shape == (48, 64, 3) and frame.std() > 10  # boxes are drawn on it


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_page_in_a_browser(comparison, tmp_path):
    """Every picture is shown, and the page is no wider than the window."""
    script = (
        "<script>onload = () => { const broken = [...document.images].filter(i => !i.naturalWidth).length;"
        "document.title = `${document.images.length} pictures, ${broken} broken, "
        "${document.documentElement.scrollWidth <= innerWidth ? 'fits' : 'too wide'}`; }</script>"
    )
    path = tmp_path / "page.html"
    path.write_text(html_page([comparison], frames=2).replace("</body>", script + "</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>5 pictures, 0 broken, fits</title>" in shown
    assert "&lt;theirs&gt; &amp; | co" in shown


def test_page_of_one_tracker(tmp_path):
    alone = compare("folder", [Results(write_run(tmp_path / "run", [0, 5, 1, 1, 1]))], CLIPS, "valid-frames")
    assert header(alone)[-2:] == ["OP75", "frames/s"]
    page = Page(html_page([alone], frames=1))
    assert "folder, valid-frames, 5 sequences" in page.texts
    assert page.images[3][0].startswith("clip-1, frame")
    assert "clip-1" == sequence_cells(alone)[1][0][0]


def test_many_trackers(comparison):
    """The best ones have names in a plot, and the difference is the last one's."""
    rows = [comparison.rows[0]._replace(label=f"tracker {i}") for i in range(30)]
    many = comparison._replace(rows=rows)
    assert len(sequence_cells(many)[0]) == 32
    lines = ElementTree.fromstring(plot(many, "success")).iter("{http://www.w3.org/2000/svg}g")
    assert sum(line.get("id", "").startswith("line2d") for line in lines) >= 30


def test_plots_are_the_same_every_time(comparison):
    assert plot(comparison, "success") == plot(comparison, "success")
    assert "AUC" not in plot(comparison, "precision")


def test_got10k(tmp_path):
    """One curve, its own figures and rule."""
    write_got10k(tmp_path / "data", "val", count=6)
    sequences = open_results_benchmark("got10k-val", [], tmp_path / "data", None)
    folder = tmp_path / "toolkit"
    for sequence in sequences:
        (folder / sequence.name).mkdir(parents=True)
        np.savetxt(folder / sequence.name / f"{sequence.name}_001.txt", sequence.boxes, delimiter=",", fmt="%.3f")
    compared = compare("got10k-val", [Results(folder)], sequences, "all-frames")
    assert title(compared) == "GOT-10k val, GOT-10k's rule, 2 sequences"
    assert cells(compared)[0][1:4] == ["100.0", "100.0", "100.0"]
    assert len(Page(html_page([compared])).images) == 1
    with pytest.raises(DataError, match="GOT-10k test: its truth is not public"):
        compare("got10k-test", [Results(folder)], sequences, "all-frames")


def test_which_benchmark_and_which_label(tmp_path):
    run = write_run(tmp_path / "run", [0] * 5)
    flat = write_flat(tmp_path / "flat", [0] * 5)
    found = parse_entries([str(run), f"theirs={flat}"], None)
    assert [entry[:2] for entry in found] == [("ours", "folder"), ("theirs", "folder")]
    found = parse_entries([str(run), f"lasot:theirs={flat}", f"nfs30:{flat}"], None)
    assert [entry[:2] for entry in found] == [("ours", "folder"), ("theirs", "lasot"), ("flat", "nfs30")]
    with pytest.raises(ConfigError, match="flat: results of which benchmark"):
        parse_entries([str(flat)], None)
    assert parse_entries([str(flat)], "otb100")[0].benchmark == "otb100"
    with pytest.raises(ConfigError, match=r"two trackers are called 'flat': name them, LABEL="):
        parse_entries([str(flat), str(flat)], "otb100")
    with pytest.raises(ConfigError, match=r"benchmark: expected one of .*, got 'mine'"):
        parse_entries([str(flat)], "mine")


def test_where_the_data_set_is(tmp_path):
    flat = Results(write_flat(tmp_path / "flat", [0] * 5))
    with pytest.raises(ConfigError, match="give --root"):
        open_results_benchmark("lasot", [flat], None, None)
    run = Results(write_run(tmp_path / "run", [0] * 5))
    with pytest.raises(DataError, match="folder: missing: /data"):
        open_results_benchmark("folder", [flat, run], None, None)


def test_how_sequences_were_rendered(tmp_path):
    """Runs that leave a key to its default are of the same sequences; others are told in one line."""
    known = SyntheticConfig(frames=29).model_dump(mode="json")
    short = {key: value for key, value in known.items() if key != "articulated"}

    def run(name, **settings):
        folder = RunFolder(tmp_path / name, {"benchmark": "synthetic", **settings}, {"limit": 1}).folder
        (folder / "finished" / "synthetic-0.json").write_text("{}")
        return Results(folder)

    one, other = run("one", synthetic=known), run("other", synthetic=short)
    assert len(open_results_benchmark("synthetic", [one, other], None, None)[0]) == 29
    for wrong, message in (
        (run("later", synthetic=known | {"fog": 1}), "run.json: data.synthetic.fog: unknown key"),
        (run("lasot"), "lasot: expected results of rendered sequences"),
    ):
        with pytest.raises(GrmError, match=message):
            open_results_benchmark("synthetic", [wrong], None, None)
