"""Attributes as data sets have them: rows of numbers in the order of their toolkits, words, flags, and ini files."""

import pytest

from grm.data.readers.attributes import attributes_of
from grm.errors import DataError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_words_and_rows_of_otb(tmp_path):
    write(tmp_path / "Crossing" / "attrs.txt", "\ufeffSV, DEF, FM, OPR, BC\r\n")
    write(tmp_path / "Jogging" / "attrs.txt", "OCC\tDEF")
    write(tmp_path / "anno" / "att" / "skating2-1.txt", "0,1,0,0,0,0,0,0,0,0,1")
    names = ["Crossing", "Jogging_1", "Jogging_2", "Skating2_1", "Walking"]
    assert attributes_of("otb100", tmp_path, names) == {
        "SV": ["Crossing"], "DEF": ["Crossing", "Jogging_1", "Jogging_2"], "FM": ["Crossing"], "BC": ["Crossing"],
        "OPR": ["Crossing", "Skating2_1"], "OCC": ["Jogging_1", "Jogging_2"], "LR": ["Skating2_1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "place", "first", "last"),
    [
        ("lasot", "annos/att/{}.txt", "IV", "ARC"),
        ("lasot-extension", "att/{}.txt", "IV", "ARC"),
        ("uav123", "anno/UAV123/att/{}.txt", "SV", "SOB"),
        ("tnl2k", "{}/attributes.txt", "CM", "MS"),
        ("tnl2k", "attributes/{}.txt", "CM", "MS"),
    ],
)
def test_first_and_last_of_a_row(tmp_path, kind, place, first, last):
    count = {"uav123": 12, "tnl2k": 17}.get(kind, 14)
    write(tmp_path / place.format("a-1"), ",".join(["1"] + ["0"] * (count - 1)))
    write(tmp_path / place.format("b-2"), "\n".join(["0"] * (count - 1) + ["1"]))
    assert attributes_of(kind, tmp_path, ["a-1", "b-2", "none"]) == {first: ["a-1"], last: ["b-2"]}
    write(tmp_path / place.format("a-1"), "1,0")
    with pytest.raises(DataError, match=f"expected {count} numbers 0 or 1, or some of {first}, "):
        attributes_of(kind, tmp_path, ["a-1"])


def test_flags_of_frames(tmp_path):
    write(tmp_path / "lasot" / "cat" / "cat-1" / "full_occlusion.txt", "0,0,1,0")
    write(tmp_path / "lasot" / "cat" / "cat-1" / "out_of_view.txt", "0,0,0,0")
    assert attributes_of("lasot", tmp_path / "lasot", ["cat-1", "dog-1"]) == {"FOC": ["cat-1"]}
    write(tmp_path / "full_occlusion" / "zebra_full_occlusion.txt", "0\n0\n")
    write(tmp_path / "out_of_view" / "zebra_out_of_view.txt", "0\n1\n")
    assert attributes_of("avist", tmp_path, ["zebra"]) == {"OV": ["zebra"]}
    write(tmp_path / "out_of_view" / "zebra_out_of_view.txt", "0\nx\n")
    with pytest.raises(DataError, match=r"zebra_out_of_view\.txt: invalid literal"):
        attributes_of("avist", tmp_path, ["zebra"])


def test_got10k(tmp_path):
    meta = "[METAINFO]\nurl: https://a.b/c\nobject_class: brown bear\nroot_class: animal\nmotion_adverb: slowly\n"
    write(tmp_path / "val" / "one" / "meta_info.ini", meta)
    for name, text in (("absence", "0\n1\n"), ("cut_by_image", "0\n0\n"), ("cover", "8\n5\n")):
        write(tmp_path / "val" / "one" / f"{name}.label", text)
    write(tmp_path / "val" / "two" / "cover.label", "8\n4\n")
    assert attributes_of("got10k-val", tmp_path, ["one", "two"]) == {
        "absent": ["one"], "animal": ["one"], "slowly": ["one"], "half covered": ["two"],
    }  # fmt: skip


def test_data_sets_without_attributes(tmp_path):
    assert attributes_of("nfs30", tmp_path, ["a"]) == attributes_of("synthetic", tmp_path, ["a"]) == {}
