from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NETWORK, draw_batch, needs, painted
from PIL import Image
from typer.testing import CliRunner

from faststyle.checkpoint import About, load_checkpoint
from faststyle.cli import app
from faststyle.engines.export import ExportError
from faststyle.errors import CheckpointError, OutputError
from faststyle.web import export, model, runtime
from faststyle.web.export import export_web
from faststyle.web.model import WebModel, quantize, web_model, with_small_weights
from faststyle.web.runtime import FILES, RuntimeFilesError, find_runtime

NEEDS_ONNX = needs("onnxruntime", "onnx", "onnxscript")
PAGE = Path(export.__file__).with_name("page")
ABOUT = About(NETWORK, {"file": "dots.png"}, vgg={}, photos="none", recipe={}, license="CC0-1.0")


@pytest.fixture
def runtime_folder(tmp_path: Path) -> Path:
    """An unpacked package of onnxruntime-web, but for what is in its files."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in (*FILES, "ort.all.mjs"):
        (folder / "dist" / name).write_bytes(name.encode())
    about = {"name": "onnxruntime-web", "version": "9.8.7"}
    (folder / "package.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are not converted: a conversion takes ten seconds."""

    def stub(checkpoint: Path, folder: Path, announce: Callable[[str], None]) -> WebModel:
        return WebModel(b"network", ABOUT, "int8", 1 / 255, 0.1 / 255, (0.5,) * 48)

    monkeypatch.setattr(export, "web_model", stub)


def files_in(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def copies(checkpoint: Path, folder: Path, *names: str) -> list[str]:
    """Copies of a checkpoint under these names."""
    folder.mkdir(exist_ok=True)
    return [str(shutil.copy(checkpoint, folder / f"{name}.safetensors")) for name in names]


# The folder


@pytest.mark.usefixtures("quick")
def test_the_folder_holds_all_that_the_page_needs_and_no_more(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "site" / "page"
    report = export_web([str(checkpoint)], output, runtime=runtime_folder)
    ours = {file.name for file in PAGE.iterdir()}
    assert files_in(output) == {
        *ours,
        *(f"runtime/{name}" for name in FILES),
        "runtime/NOTICE.txt",
        "styles/dots/model.onnx",
        "styles/dots/thumbnail.jpg",
        "styles.json",
        "example.jpg",
    }
    assert [path.name for path in output.parent.iterdir()] == ["page"]  # nothing is left over
    assert report.size_bytes == sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    assert report.runtime == "9.8.7"
    assert "9.8.7" in (output / "runtime" / "NOTICE.txt").read_text()
    with Image.open(output / "styles/dots/thumbnail.jpg") as thumbnail:
        assert thumbnail.size == (240, 160)


@pytest.mark.usefixtures("quick")
def test_the_manifest_describes_styles_and_files(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    export_web([str(checkpoint)], tmp_path / "page", runtime=runtime_folder)
    manifest = json.loads((tmp_path / "page" / "styles.json").read_text())
    assert set(manifest["files"]) == files_in(tmp_path / "page") - {"styles.json"}
    assert manifest["sizes"] == {name: len(name) for name in FILES}
    (style,) = manifest["styles"]
    assert style["probe"] == [0.5] * 48
    assert {key: style[key] for key in ("id", "title", "file", "bytes", "license", "painting")} == {
        "id": "dots",
        "title": "Dots",
        "file": "styles/dots/model.onnx",
        "bytes": 7,
        "license": "CC0-1.0",
        "painting": "dots.png",
    }


@pytest.mark.usefixtures("quick")
def test_names_with_odd_characters_become_plain_addresses(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    names = ["Blaue Nächte & <b>", "blaue_nachte-b", "日本", "a b#c?d%20", "the_scream-mobile"]
    styles = copies(checkpoint, tmp_path / "styles", *names)
    export_web(styles, tmp_path / "page", runtime=runtime_folder)
    manifest = json.loads((tmp_path / "page" / "styles.json").read_text(encoding="utf-8"))
    ids = [style["id"] for style in manifest["styles"]]
    assert ids == ["blaue-nachte-b", "blaue-nachte-b--2", "style", "a-b-c-d-20", "the-scream"]
    titles = [style["title"] for style in manifest["styles"]]
    assert titles == ["Blaue Nächte & <b>", "Blaue nachte-b", "日本", "A b#c?d%20", "The scream"]


@pytest.mark.usefixtures("quick")
def test_a_style_that_is_named_twice_or_is_not_there_is_refused(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="named twice"):
        export_web([str(checkpoint)] * 2, tmp_path / "page", runtime=runtime_folder)
    with pytest.raises(CheckpointError):
        export_web(["nothing_of_that_name"], tmp_path / "page", runtime=runtime_folder)
    assert not (tmp_path / "page").exists()


@pytest.mark.usefixtures("quick")
def test_the_readme_of_a_space_asks_for_the_headers_of_threads(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    export_web([str(checkpoint)], tmp_path / "page", runtime=runtime_folder, hf_space=True)
    text = (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    lines = front.splitlines()
    assert "sdk: static" in lines
    headers = lines[lines.index("custom_headers:") + 1 :]
    assert "  cross-origin-opener-policy: same-origin" in headers
    assert "  cross-origin-embedder-policy: require-corp" in headers
    assert "| Dots | CC0-1.0 |" in body


@pytest.mark.usefixtures("quick")
def test_a_network_that_is_too_large_for_a_phone_is_said(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = export_web([str(checkpoint)], tmp_path / "small", runtime=runtime_folder)
    assert small.notes == ()
    large = WebModel(bytes(1_700_000), ABOUT, "int8", 0.0, 0.0, (0.5,) * 48)
    monkeypatch.setattr(export, "web_model", lambda *_: large)
    (note,) = export_web([str(checkpoint)], tmp_path / "large", runtime=runtime_folder).notes
    assert "1.7 MB" in note
    assert "1 MB" in note


# What is there already


@pytest.mark.usefixtures("quick")
def test_an_earlier_page_is_replaced_when_asked_and_files_of_others_stay(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    one, two = copies(checkpoint, tmp_path / "styles", "one", "two")
    page = tmp_path / "page"
    export_web([one], page, runtime=runtime_folder, hf_space=True)
    (page / "CNAME").write_text("example.org")
    with pytest.raises(OutputError, match="`overwrite`"):
        export_web([two], page, runtime=runtime_folder)
    assert (page / "styles" / "one").is_dir()
    export_web([two], page, runtime=runtime_folder, overwrite=True)
    left = files_in(page)
    assert "CNAME" in left
    assert "styles/two/model.onnx" in left
    assert "README.md" not in left
    assert not (page / "styles" / "one").exists()


@pytest.mark.usefixtures("quick")
def test_a_folder_of_other_things_is_never_written_to(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for name, overwrite in (("home", False), ("home", True), ("file", True)):
        with pytest.raises(OutputError, match=name):
            export_web(
                [str(checkpoint)], tmp_path / name, runtime=runtime_folder, overwrite=overwrite
            )
    assert files_in(tmp_path / "home") == {"letter.txt"}


@pytest.mark.usefixtures("quick")
def test_a_manifest_cannot_have_files_outside_of_its_folder_removed(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("stays")
    page = tmp_path / "page"
    page.mkdir()
    (page / "styles.json").write_text(json.dumps({"files": ["../outside.txt", str(outside), 7]}))
    export_web([str(checkpoint)], page, runtime=runtime_folder, overwrite=True)
    assert outside.read_text() == "stays"


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_of_an_export_that_fails(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> WebModel:
        raise ExportError("nothing written: too far")

    monkeypatch.setattr(export, "web_model", fail)
    (tmp_path / "site").mkdir()
    with pytest.raises(ExportError):
        export_web([str(checkpoint)], tmp_path / "site" / "page", runtime=runtime_folder)
    assert list((tmp_path / "site").iterdir()) == []


# The runtime


def package(tmp_path: Path) -> Path:
    """A package as npm's registry gives it."""
    file = tmp_path / "registry.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("package.json", *(f"dist/{name}" for name in FILES), "dist/other.mjs"):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return file


def npm_hash(file: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


def test_the_runtime_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package(tmp_path)
    monkeypatch.setattr(runtime, "URL", file.as_uri())
    monkeypatch.setattr(runtime, "INTEGRITY", npm_hash(file))
    said: list[str] = []
    first = find_runtime(announce=said.append)
    assert first.version == runtime.VERSION
    assert first.contents == {name: f"dist/{name}".encode() for name in FILES}
    assert len(said) == 1
    assert "33 MB" in said[0]
    file.unlink()
    assert find_runtime(announce=said.append) == first
    assert len(said) == 1


def test_a_runtime_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path)
    monkeypatch.setattr(runtime, "URL", file.as_uri())
    with pytest.raises(RuntimeFilesError, match=re.escape(npm_hash(file))) as caught:
        find_runtime()
    assert "refused" in str(caught.value)
    assert not list(runtime.cache_folder().glob("onnxruntime-web*"))


def test_a_damaged_runtime_in_the_cache_is_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path)
    monkeypatch.setattr(runtime, "URL", file.as_uri())
    monkeypatch.setattr(runtime, "INTEGRITY", npm_hash(file))
    find_runtime()
    (cached,) = runtime.cache_folder().glob("onnxruntime-web*.tgz")
    cached.write_bytes(b"cut")
    assert set(find_runtime().contents) == set(FILES)


@pytest.mark.usefixtures("quick")
def test_without_the_internet_there_is_one_line_that_names_the_fix(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "URL", "http://127.0.0.1:9/onnxruntime-web.tgz")
    arguments = ["export", str(checkpoint), "--format", "web", "-o", str(tmp_path / "page")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "cannot download http://127.0.0.1:9/" in errors[0]
    assert "--runtime" in errors[0]
    assert not (tmp_path / "page").exists()


def test_the_runtime_may_be_a_package_or_its_dist(runtime_folder: Path) -> None:
    whole = find_runtime(runtime_folder)
    assert whole == find_runtime(runtime_folder / "dist")
    assert whole.version == "9.8.7"
    assert set(whole.contents) == set(FILES)
    (runtime_folder / "package.json").write_text("{}")
    assert find_runtime(runtime_folder).version == ""


def test_a_folder_that_is_no_runtime_is_refused(runtime_folder: Path, tmp_path: Path) -> None:
    (runtime_folder / "dist" / FILES[2]).unlink()
    for folder in (runtime_folder, runtime_folder / "dist", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RuntimeFilesError, match=f"no {FILES[2]}|no {FILES[0]}"):
            find_runtime(folder)


# The networks


def test_quantized_weights_are_within_half_a_level() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (5, 16, 3, 3)).astype(np.float32)
    weight[2] *= 1000
    weight[4] = 0
    levels, scale = quantize(weight)
    assert levels.dtype == np.int8
    np.testing.assert_allclose(scale.ravel() * 127, [np.abs(w).max() or 127 for w in weight], 1e-6)
    assert (np.abs(levels * scale - weight) <= scale / 2 + 1e-9).all()


@NEEDS_ONNX
@pytest.mark.usefixtures("one_cache")
def test_a_network_for_the_page_is_small_and_paints_what_torch_paints(
    checkpoint: Path, tmp_path: Path
) -> None:
    import onnxruntime

    found = web_model(checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []
    session = onnxruntime.InferenceSession(found.data, providers=["CPUExecutionProvider"])
    images = draw_batch(1, 75, 118)
    (got,) = session.run(["stylized"], {"photo": images.numpy()})
    off = np.abs(got - painted(checkpoint, images).numpy()).max()
    assert 0 < off <= model.MAX_DIFFERENCE
    assert 0 < found.mean <= found.difference <= model.MAX_DIFFERENCE
    parameters = sum(p.numel() for p in load_checkpoint(checkpoint)[0].parameters())
    assert len(found.data) < 2 * parameters + 40_000


@NEEDS_ONNX
@pytest.mark.usefixtures("one_cache")
def test_weights_get_16_bits_where_8_change_the_pictures(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "LEVELS", 1)
    monkeypatch.setattr(model, "PIXEL_CHANNELS", 0)
    assert web_model(checkpoint, tmp_path).precision == "float16"
    monkeypatch.setattr(model, "MAX_DIFFERENCE", 1e-9)
    with pytest.raises(ExportError, match="does not paint what torch paints"):
        web_model(checkpoint, tmp_path)


@NEEDS_ONNX
@pytest.mark.usefixtures("one_cache")
def test_stored_weights_are_in_few_bits(checkpoint: Path) -> None:
    import onnx

    network, about = load_checkpoint(checkpoint)
    graph = model.cached_graph(network, about, checkpoint)
    kinds = {}
    for precision in ("int8", "float16"):
        stored = onnx.load_from_string(with_small_weights(graph, precision)).graph.initializer
        large = [t for t in stored if len(t.dims) == 4 and max(t.dims) > 1 and t.dims[1] > 1]
        kinds[precision] = {onnx.TensorProto.DataType.Name(t.data_type) for t in large}
    assert kinds == {"int8": {"INT8", "FLOAT16"}, "float16": {"FLOAT16"}}


def test_the_test_picture_is_that_of_the_page() -> None:
    """The formula in probe.js, by hand at three places."""
    picture = model.probe_picture()
    assert picture.shape == (1, 3, 32, 32)
    values = (255 * picture[0]).round().int()
    assert values[0, 0, 1] == 35
    assert values[1, 2, 3] == (105 + 130 + 145) % 256
    assert values[2, 31, 31] == (35 * 31 + 65 * 31 + 290) % 256
    assert "(35 * x + 65 * y + 145 * c) % 256" in (PAGE / "probe.js").read_text()
    means = model._probe_means(torch.arange(3 * 32 * 32.0).reshape(1, 3, 32, 32))
    assert len(means) == 48
    assert means[5] == np.arange(3 * 32 * 32).reshape(3, 32, 32)[0, 8:16, 8:16].mean()


# The command, and the page's own files


@pytest.mark.usefixtures("quick")
def test_the_command_says_size_and_difference(
    checkpoint: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    command = ["export", str(checkpoint), "--format", "web", "--runtime", str(runtime_folder)]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert "dots: 0.00 MB, weights in int8, at most 1.00 of 255 levels from torch, 0.10 on" in (
        result.output
    )
    assert "python -m http.server" in result.output
    again = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "page")])
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    as_json = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "other"), "--json"])
    assert json.loads(as_json.stdout)["styles"][0]["name"] == "dots"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "web", "-o", "page", "--int8"], "--int8: is for other formats than web"),
        (["--format", "web", "-o", "page", "--size", "64x64"], "--size: is for other formats"),
        (["-o", "a.onnx", "--hf-space"], "--hf-space: is for --format web only"),
        (["-o", "a.onnx", "--runtime", "x"], "--runtime: is for --format web only"),
        (["--format", "wep", "-o", "page"], "--format wep: unknown. Did you mean 'web'?"),
        (["more", "-o", "a.onnx"], "2 styles: only --format web takes more than one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "dots", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_the_page_names_no_other_host() -> None:
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        hosts = set(re.findall(r"(?:https?:)?//([\w.-]+\.\w+)", text)) - {"www.w3.org"}
        assert hosts == set(), file.name
