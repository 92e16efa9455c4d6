"""Small benchmarks on disk, in the layouts of the real ones and as people have them. A shade tells the frame."""

from ..data.trees import boxes_of, write_boxes, write_frame


def write_images(folder, count, name="{:08d}.jpg", first=1):
    """Image i of `count` has shade 10 * i; macOS has been here."""
    for i in range(count):
        write_frame(folder / name.format(i + first), 10 * i % 250)
    (folder / f"._{name.format(first)}").write_bytes(b"\x00\x05\x16\x07")


def write_flags(path, count, where=(), separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(separator.join(str(int(i in where)) for i in range(count)))


def write_lasot_extension(root, names=("atv-1", "paddle-10"), count=5, nested=True):
    for name in names:
        folder = root / name.rpartition("-")[0] / name if nested else root / name
        write_images(folder / "img", count)
        write_boxes(folder / "groundtruth.txt", boxes_of(count))
        write_flags(folder / "full_occlusion.txt", count)
        write_flags(folder / "out_of_view.txt", count, where=(3,))
    return list(names)


def write_avist(root, names=("animal_1", "zebra"), count=5):
    for name in names:
        write_images(root / "sequences" / name, count, "img_{:05d}.jpg")
        write_boxes(root / "anno" / f"{name}.txt", boxes_of(count), " ")
        write_flags(root / "full_occlusion" / f"{name}_full_occlusion.txt", count, (2,), "\n")
        write_flags(root / "out_of_view" / f"{name}_out_of_view.txt", count, (3,), "\n")
    (root / "anno" / "._zebra.txt").write_bytes(b"\x00\x05\x16\x07")
    return list(names)


def write_nfs(root, names=("Gymnastics", "ball_10"), count=5, surplus=0):
    for name in names:
        write_images(root / "sequences" / name, count, "{:05d}.jpg")
        write_boxes(root / "anno" / f"nfs_{name}.txt", boxes_of(count + surplus), "\t")
    return list(names)


def write_nfs_original(root, names=("Gymnastics", "ball_10"), count=5, rate=8):
    """Corners, at 240 frames a second, as the download has it."""
    for name in names:
        write_images(root / name / "30" / name, count, "{:05d}.jpg")
        lines = []
        for i in range(rate * (count - 1) + 3 if rate > 1 else count):
            x, y, width, height = boxes_of(count)[i // rate]
            lines.append(f'0 {x:g} {y:g} {x + width:g} {y + height:g} {i} 0 0 0 "{name}"\n')
        (root / name / "30" / f"{name}.txt").write_text("".join(lines))
    return list(names)


def write_uav123(root, count=5):
    """Two sequences of one video, and one with a video of its own."""
    write_images(root / "data_seq" / "UAV123" / "bird1", 2 * count, "{:06d}.jpg")
    write_images(root / "data_seq" / "UAV123" / "bike1", count, "{:06d}.jpg")
    for name in ("bike1", "bird1_1", "bird1_2"):
        write_boxes(root / "anno" / "UAV123" / f"{name}.txt", boxes_of(count))
    write_flags(root / "anno" / "UAV123" / "att" / "bike1.txt", 12)
    return ["bike1", "bird1_1", "bird1_2"]


def write_uav123_list(path, count=5):
    """As the data set's own list in MATLAB."""
    entry = (
        "    struct('name','{}','path','..\\..\\data_seq\\{}\\{}\\','startFrame',{},'endFrame',{},'nz',6,'ext','jpg')"
    )
    entries = [
        ("bike1", "UAV123", "bike1", 1, count),
        ("bird1_1", "UAV123", "bird1", 1, count),
        ("bird1_2", "UAV123", "bird1", count + 1, 2 * count),
        ("bird1_2", "UAV123_10fps", "bird1", 1, 2),
    ]
    lines = [entry.format(*values) + ",..." for values in entries]
    path.write_text("function seqs = configSeqs\nseqUAV123={" + "\n".join(lines) + "};\n")


def write_otb(root, count=5):
    """Two targets in one video, an empty file of boxes, images that begin late, and every separator."""
    for name, separator in (("Basketball", ","), ("Board", "\t"), ("Jogging", " "), ("Human4", ","), ("BlurCar1", ",")):
        first = 247 if name == "BlurCar1" else 1
        write_images(root / name / "img", count, "{:05d}.jpg" if name == "Board" else "{:04d}.jpg", first)
        for target in {"Jogging": (".1", ".2"), "Human4": (".2",)}.get(name, ("",)):
            write_boxes(root / name / f"groundtruth_rect{target}.txt", boxes_of(count), separator)
    (root / "Human4" / "groundtruth_rect.1.txt").write_text("")
    return ["BlurCar1", "Basketball", "Board", "Human4_2", "Jogging_1", "Jogging_2"]


def write_tnl2k(root, names=("advSamp_a", "video"), count=5):
    for name in names:
        write_images(root / name / "imgs", count, "{:05d}.png")
        write_boxes(root / name / "groundtruth.txt", boxes_of(count))
        (root / name / "language.txt").write_text("the thing on the left\n")
    return list(names)


def write_itb(root, names=(("Human", "walk"), ("Sport", "run"), ("Sport", "walk")), count=5):
    for scene, video in names:
        write_images(root / scene / video, count, "{:05d}.jpg")
        write_boxes(root / scene / video / "groundtruth.txt", boxes_of(count))
    return ["Human_walk", "run", "Sport_walk"]
