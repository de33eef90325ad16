"""Photos by number: the same pixels whoever asks, and bad files that never stop a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image

from faststyle.errors import PhotosError
from faststyle.perceptual.weights import find_weights, load_vgg
from faststyle.training.leaves import dead_leaves
from faststyle.training.photos import (
    DYING,
    SAMPLE_HELD_OUT,
    SAMPLE_TRAIN,
    Batch,
    NumberedPhotos,
    held_out_photos,
    open_photos,
    photo_loader,
    with_death_told,
)

SIZE = 32


def samples(
    photos: str, numbers: range, workers: int = 0, batch: int = 2, seed: int = 0
) -> torch.Tensor:
    loader = photo_loader(
        open_photos(photos, seed),
        size=SIZE,
        batch_size=batch,
        start=numbers.start,
        stop=numbers.stop,
        seed=seed,
        workers=workers,
    )
    return torch.cat([b["photo"] for b in loader])


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local dataset in three parquet shards of 50 photos, each of one grey level of its own."""
    import datasets

    folder = tmp_path_factory.mktemp("parquet")
    for shard in range(3):
        levels = range(shard * 50, shard * 50 + 50)
        rows = [np.full((40, 44, 3), level, dtype=np.uint8) for level in levels]
        table = datasets.Dataset.from_dict(
            {"image": [Image.fromarray(r) for r in rows], "level": list(levels)}
        )
        table.to_parquet(folder / f"train-{shard:05d}-of-00003.parquet")
    return folder


@pytest.mark.parametrize("kind", ["sample", "folder", "stream"])
def test_a_sample_is_a_function_of_seed_and_number(
    kind: str, photo_folder: Path, parquet: Path
) -> None:
    photos = {"sample": "sample", "folder": str(photo_folder), "stream": f"hf:{parquet}"}[kind]
    whole = samples(photos, range(0, 16))
    assert whole.shape == (16, 3, SIZE, SIZE)
    assert torch.equal(samples(photos, range(6, 16)), whole[6:]), "resumed in the middle"
    assert torch.equal(samples(photos, range(0, 16), workers=2), whole), "with two workers"
    assert torch.equal(samples(photos, range(0, 16), batch=4), whole), "in other batches"
    assert not torch.equal(samples(photos, range(0, 16), seed=1), whole), "with another seed"


def test_two_processes_see_together_what_one_sees() -> None:
    """Batches are dealt in turn: 2k and 2k + 1 of two are batch k of one of twice the size."""
    from accelerate.data_loader import prepare_data_loader

    whole = samples("sample", range(0, 12), batch=4)
    parts = []
    for process in range(2):
        loader = photo_loader(
            open_photos("sample", 0), size=SIZE, batch_size=2, start=0, stop=12, seed=0, workers=0
        )
        shard = prepare_data_loader(
            loader, num_processes=2, process_index=process, put_on_device=False
        )
        parts.append([b["photo"] for b in shard])
    together = torch.cat([torch.cat(pair) for pair in zip(*parts, strict=True)])
    assert torch.equal(together, whole)


def test_a_folder_is_seen_whole_before_anything_is_seen_twice(photo_folder: Path) -> None:
    source = open_photos(str(photo_folder), 0)
    first, second = (
        [source.photo(n, 0)[0] for n in numbers] for numbers in (range(6), range(6, 12))
    )
    assert sorted(first) == sorted(second) == sorted(str(p) for p in photo_folder.rglob("*.png"))
    assert first != second
    assert source.license == "licence not known to faststyle"
    assert "6 photos of the folder" in source.description


def test_a_stream_is_seen_whole_and_goes_round(parquet: Path) -> None:
    """Three shards are three lanes; 50 rows of each come before the first is seen again."""
    data = NumberedPhotos(open_photos(f"hf:{parquet}", 0), SIZE, 0)
    levels = [int(data[n]["photo"].float().mean().round()) for n in range(3 * 64)]
    for lane in range(3):
        mine = levels[lane::3]
        assert len(set(mine)) == 50
        assert {level // 50 for level in mine} == {mine[0] // 50}
    assert levels[0::3] != sorted(levels[0::3])
    assert int(data[1]["photo"].float().mean().round()) == levels[1], (
        "going back reads the lane again"
    )


def test_names_of_datasets_are_checked(parquet: Path, tmp_path: Path) -> None:
    assert open_photos(f"hf:{parquet}:train:image", 0).photo(0, 0)
    with pytest.raises(PhotosError, match="no column 'picture'; it has image, level"):
        open_photos(f"hf:{parquet}:train:picture", 0)
    with pytest.raises(PhotosError, match="split 'test'"):
        open_photos(f"hf:{parquet}:test", 0)
    with pytest.raises(PhotosError, match="without a network use `photos` sample"):
        open_photos(f"hf:{tmp_path / 'nowhere'}", 0)
    with pytest.raises(PhotosError, match="no such folder; allowed: sample, coco"):
        open_photos(str(tmp_path / "nowhere"), 0)
    with pytest.raises(PhotosError, match="no images in it"):
        open_photos(str(tmp_path), 0)


def test_bad_files_are_replaced_and_listed(tmp_path: Path) -> None:
    good = draw(0, 60, 70)
    good.save(tmp_path / "good.png")
    good.convert("L").save(tmp_path / "grey.png")
    good.convert("CMYK").save(tmp_path / "cmyk.jpg")
    good.convert("RGBA").save(tmp_path / "alpha.png")
    good.save(tmp_path / "whole.jpg", quality=95)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 3])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    good.resize((9, 7)).save(tmp_path / "tiny.png")
    loader = photo_loader(
        open_photos(str(tmp_path), 0), size=SIZE, batch_size=3, start=0, stop=9, seed=0, workers=1
    )
    skipped = {}
    for batch in loader:
        assert batch["failure"] is None
        assert batch["photo"].float().std() > 1
        skipped |= {Path(name).name: reason for name, reason in batch["skipped"]}
    assert skipped.keys() == {"cut.jpg", "empty.png", "text.jpg", "tiny.png"}
    assert skipped["empty.png"] == "the file is empty"
    assert skipped["tiny.png"].startswith("7x9 pixels")


def test_names_of_files_need_not_be_text(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"\xff\xfc.png")
    draw(0, 80, 80).save(tmp_path / "a.png")
    try:
        os.rename(tmp_path / "a.png", name)
    except OSError:
        pytest.skip("this file system takes names of text only")
    data = NumberedPhotos(open_photos(str(tmp_path), 0), SIZE, 0)
    assert data[0]["failure"] is None
    assert os.fsencode(open_photos(str(tmp_path), 0).photo(0, 0)[0]) == name


def test_folders_that_cannot_be_listed_are_errors(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PhotosError, match=r"more: cannot be read \(Permission denied\)"):
        open_photos(str(photo_folder), 0)
    with pytest.raises(PhotosError, match="no such folder"):
        open_photos("x" * 300, 0)


def test_a_source_with_nothing_but_bad_files_fails_with_a_reason(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    sample = NumberedPhotos(open_photos(str(tmp_path), 0), SIZE, 0)[0]
    assert sample["failure"] is not None
    assert "20 photos in a row cannot be used" in sample["failure"]
    assert "the file is empty" in sample["failure"]


def test_crops_keep_the_aspect_ratio(tmp_path: Path) -> None:
    """A disc stays a disc: as high as wide, in crops of a wide picture."""
    y, x = np.mgrid[:200, :600]
    discs = ((x % 40 - 20) ** 2 + (y % 40 - 20) ** 2 < 144) * 255
    Image.fromarray(discs.astype(np.uint8)).save(tmp_path / "discs.png")
    photo = NumberedPhotos(open_photos(str(tmp_path), 0), 128, 0)[0]["photo"][0].float()
    spectrum = torch.fft.rfft2(photo - photo.mean()).abs()
    down = spectrum[1:64, 0].argmax() + 1
    across = spectrum[0, 1:64].argmax() + 1
    assert abs(int(down) - int(across)) <= 1


def test_sample_photos_are_carried_by_scikit_image_and_two_are_kept_out() -> None:
    assert not set(SAMPLE_TRAIN) & set(SAMPLE_HELD_OUT)
    assert all(p.is_file() for p in held_out_photos())
    names = {Path(open_photos("sample", 0).photo(n, 0)[0]).name for n in range(200)}
    leaves = {n for n in names if n.startswith("dead leaves")}
    assert names - leaves == set(SAMPLE_TRAIN)
    assert 30 <= len(leaves) <= 70  # a quarter of 200, give or take three standard deviations


@pytest.mark.weights
def test_dead_leaves_weigh_as_much_as_photos() -> None:
    """The content error is relative to it: leaves once had more than twice that of photos."""
    vgg = load_vgg(find_weights("vgg16"), ["relu4_2"])
    numbered = NumberedPhotos(open_photos("sample", 0), 224, 0)
    of_leaves = []
    of_photos = []
    for number in range(64):
        name, _ = numbered.source.photo(number, 0)
        photo = numbered[number]["photo"][None].float() / 255
        with torch.no_grad():
            variance = float(vgg(photo, ["relu4_2"])["relu4_2"].var())
        (of_leaves if name.startswith("dead leaves") else of_photos).append(variance)
    assert np.mean(of_leaves) == pytest.approx(np.mean(of_photos), rel=0.3)


def test_dead_leaves_have_edges_at_all_scales() -> None:
    """The spectrum of such images falls like that of photos: amplitude about 1 / frequency."""
    size = 128
    slopes = []
    for seed in range(4):
        grey = dead_leaves(np.random.default_rng(seed), size).mean(2)
        window = np.hanning(size)[:, None] * np.hanning(size)
        amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
        bands = [(lo, lo * 2) for lo in (0.03, 0.06, 0.12, 0.24)]
        levels = [np.sqrt((amplitude[(f >= a) & (f < b)] ** 2).mean()) for a, b in bands]
        slopes.append(np.polyfit(np.log([a for a, _ in bands]), np.log(levels), 1)[0])
    assert -2.0 < np.mean(slopes) < -0.8


def test_a_stream_that_failed_is_read_anew(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its generator has ended with the error; the next one would end the loader in silence."""
    source = open_photos(f"hf:{parquet}", 0)
    expected = [source.photo(n, 0)[0] for n in range(3)]
    broken = open_photos(f"hf:{parquet}", 0)

    def fail(lane: int) -> Iterator[Any]:
        raise OSError("cut off")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(broken, "_read", fail)
        for _ in range(2):
            with pytest.raises(PhotosError, match="cut off"):
                broken.photo(0, 0)
    assert [broken.photo(n, 0)[0] for n in range(3)] == expected


@pytest.mark.parametrize("broken", [ConnectionResetError("reset by peer"), EOFError()])
def test_a_connection_that_breaks_with_its_process_is_told_as_the_death(broken: Exception) -> None:
    died = "DataLoader worker (pid 1) is killed by signal: Killed."

    def batches() -> Iterator[Batch]:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise broken
        yield

    def handler(*_: object) -> None:  # as torch's, which runs when the system tells the death
        raise RuntimeError(died)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            list(with_death_told(batches()))
        assert time.monotonic() - began < DYING
    finally:
        signal.signal(signal.SIGALRM, before)
