"""Which formats are read, and from which kinds of file."""

import ast
import io
import os
import struct
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

import lcmcore
from lcmcore import ImageError
from lcmcore.image import read_image
from lcmcore.image_files.opening import FORMATS, MAX_BYTES, image_suffixes, open_image
from tests.core.images import RED, cut, encoded, filled

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

READ = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "TGA")


def test_the_formats_that_are_read():
    assert set(FORMATS) == {*READ, "AVIF", "HEIF"}


@pytest.mark.parametrize("form", [*READ, *(["AVIF"] if "AVIF" in Image.SAVE else [])])
def test_each_of_them_is_read(form, tmp_path):
    options = {"save_all": True, "append_images": [filled("RGB", 0, (16, 16))]}
    data = encoded(filled("RGB", RED, (16, 16)), form, **(options if form == "MPO" else {}))
    path = tmp_path / "image.wrong"  # what a file is called does not matter
    path.write_bytes(data)
    for source in (data, path, Image.open(io.BytesIO(data))):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (16, 16))
        np.testing.assert_allclose(image.getpixel((8, 8)), RED, atol=8)


OTHERS = ["EPS", "ICO", "PCX", "SGI", "SPIDER", "ICNS"]


@pytest.mark.parametrize("form", OTHERS)
def test_no_others_are_read(form, tmp_path):
    mode = "F" if form == "SPIDER" else "RGB"
    data = encoded(filled(mode, 0, (32, 32)), form)
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    for source in (data, path):
        words = (
            r"known are JPEG, MPO, PNG, .*WEBP, TIFF, JPEG2000, AVIF \(with Pillow 11.3 or later\)"
        )
        with pytest.raises(ImageError, match=rf"{words}, HEIF \(with pillow-heif\), TGA$"):
            read_image(source)
    if form == "ICO":  # which Pillow decodes when it opens it
        return
    with pytest.raises(ImageError, match=f"^image: {form} is not a format that is read; known are"):
        read_image(Image.open(io.BytesIO(data)))


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program `gs`, and the file that it creates when it is run."""
    trace = tmp_path / "trace"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    return trace


def test_ghostscript_is_not_started(ghostscript, tmp_path):
    data = encoded(filled("RGB", RED), "EPS")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(OSError), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert ghostscript.exists(), "Pillow alone would start it"
    ghostscript.unlink()
    EpsImagePlugin.gs_binary = None
    for source in (data, path, Image.open(io.BytesIO(data))):
        with pytest.raises(ImageError):
            read_image(source)
    assert not ghostscript.exists()


def heic(brand):
    return struct.pack(">L", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(100)


class HeifImageFile(ImageFile.ImageFile):
    """Stands in for pillow-heif's: any file of the kind is red."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size, self.tile = "RGB", (4, 4), []

    def load(self):
        self.im = Image.core.fill("RGB", self.size, RED)
        return Image.Image.load(self)


@pytest.fixture
def registry(monkeypatch):
    """Pillow's lists of formats, given back as they were, without HEIF."""
    Image.init()
    for name in ("OPEN", "EXTENSION"):
        known = {key: value for key, value in getattr(Image, name).items() if "HEIF" not in key}
        monkeypatch.setattr(Image, name, known)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])


@pytest.fixture
def pillow_heif(registry, monkeypatch):
    def register_heif_opener():
        Image.register_open("HEIF", HeifImageFile, lambda prefix: prefix[4:8] == b"ftyp")
        Image.register_extension("HEIF", ".heic")

    module = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


BRANDS = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"]


@pytest.mark.parametrize("brand", BRANDS)
def test_heic_is_read_where_its_plugin_is_installed(brand, pillow_heif):
    assert ".heic" not in Image.EXTENSION  # registered when it is needed, not before
    assert read_image(heic(brand)).getpixel((0, 0)) == RED
    assert read_image(heic(brand)).getpixel((0, 0)) == RED


@pytest.mark.parametrize("brand", BRANDS)
def test_heic_without_the_plugin(brand, registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC is read only where pillow-heif is installed"):
        read_image(heic(brand))


def test_other_files_do_not_register_heif(pillow_heif):
    read_image(encoded(filled("RGB", RED), "TIFF"))
    assert "HEIF" not in Image.OPEN


@pytest.mark.parametrize("brand", [b"avif", b"avis"])
def test_avif_with_an_older_pillow(brand, registry, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(ImageError, match=r"image: AVIF is read only with Pillow 11\.3 or later"):
        read_image(heic(brand))


@pytest.mark.parametrize("brand", [b"heic", b"avif", b"qt  "])
def test_a_damaged_file_where_all_is_installed(brand, registry, monkeypatch):
    Image.register_open("HEIF", HeifImageFile, lambda prefix: False)
    Image.OPEN.setdefault("AVIF", (HeifImageFile, lambda prefix: False))
    with pytest.raises(ImageError, match="not an image of a known format"):
        read_image(heic(brand))


def test_suffixes(pillow_heif):
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".mpo", ".png", ".gif", ".bmp", ".ppm", ".webp", ".heic"} < suffixes
    assert {".tif", ".tiff", ".jp2", ".tga"} < suffixes
    assert not {".eps", ".ps", ".ico", ".pdf", ".psd", ".wmf", ".grib", ".fits"} & suffixes


def test_suffixes_without_heif(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert ".png" in image_suffixes()
    assert not {".heic", ".heif"} & image_suffixes()


def test_opening_does_not_decode():
    image = open_image(io.BytesIO(cut()), "a name")
    assert (image.format, image.size) == ("PNG", (64, 64))
    with pytest.raises(ImageError, match=r"^a name: not an image"):
        open_image(io.BytesIO(b"text"), "a name")


def test_images_are_opened_in_one_place():
    """Another `Image.open` would try every format that Pillow knows."""
    root = Path(lcmcore.__file__).parent
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open")
    }
    assert callers == {"image_files/opening.py"}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_pipe_is_read_by_its_path_and_closed(kind):
    read, write = os.pipe()
    try:
        os.write(write, encoded(filled("RGB", RED)))
        os.close(write)
        assert read_image(kind(f"/dev/fd/{read}")).getpixel((0, 0)) == RED
    finally:
        os.close(read)


def test_devices_are_not_read():
    for name in ("/dev/zero", "/dev/null", "/dev/full"):
        with pytest.raises(ImageError, match=f"^{name}: cannot be read: not a regular file$"):
            read_image(name)


def test_files_of_more_than_256_mebibytes(tmp_path):
    path = tmp_path / "sparse.png"
    path.write_bytes(encoded(filled("RGB", RED)))
    os.truncate(path, MAX_BYTES)
    assert read_image(path).getpixel((0, 0)) == RED
    for size in (MAX_BYTES + 1, 40 << 30):
        os.truncate(path, size)
        with pytest.raises(ImageError, match=rf"^{path}: cannot be read: larger than 256 MiB$"):
            read_image(path)


@pytest.mark.parametrize("extra", [0, 1])
def test_pipes_of_more_than_that(extra, monkeypatch):
    data = encoded(filled("RGB", RED))
    monkeypatch.setattr("lcmcore.image_files.opening.MAX_BYTES", len(data) - extra)
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        if extra:
            with pytest.raises(ImageError, match="larger than"):
                read_image(f"/dev/fd/{read}")
        else:
            assert read_image(f"/dev/fd/{read}").getpixel((0, 0)) == RED
    finally:
        os.close(read)


def test_an_endless_pipe_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("lcmcore.image_files.opening.MAX_BYTES", 2**20)
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        with pytest.raises(ImageError, match="larger than 1 MiB"):
            read_image(f"/dev/fd/{endless.stdout.fileno()}")
        endless.kill()


def test_a_pipe_that_is_written_slowly(monkeypatch):
    """The bytes come after the wait for a process that writes, and one by one."""
    monkeypatch.setattr("lcmcore.image_files.opening._WRITER_SECONDS", 0.01)
    read, write = os.pipe()
    data = encoded(filled("RGB", RED))

    def drip():
        for place in range(len(data)):
            threading.Event().wait(0.1 if not place else 0.0005)
            os.write(write, data[place : place + 1])
        os.close(write)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert read_image(f"/dev/fd/{read}").getpixel((0, 0)) == RED
    finally:
        thread.join()
        os.close(read)


def test_a_fifo_that_nobody_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("lcmcore.image_files.opening._WRITER_SECONDS", 0.01)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="or empty"):
        read_image(tmp_path / "fifo")


def test_a_fifo_that_somebody_writes_to(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[encoded(filled("RGB", RED))])
    writer.start()
    try:
        assert read_image(path).getpixel((0, 0)) == RED
    finally:
        writer.join()


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("filler", [b"#%s\n", b"%s"])
def test_long_headers(filler):
    """Pillow reads them byte by byte: 25 s for 100 MB. The last number begins within 64 KiB."""
    for extra in (0, 1):
        space = (b"a" if b"#" in filler else b" ") * (2**16 - 8 - len(filler % b"") + extra)
        data = b"P6\n" + filler % space + b"1 9 255\n" + b"\5\6\7" * 9
        assert data.index(b"255") == 2**16 - 1 + extra
        if extra:
            with pytest.raises(ImageError, match=r"^image: cannot be read: .*header"):
                read_image(data)
        else:
            assert read_image(data).getpixel((0, 8)) == (5, 6, 7)


def test_what_begins_like_a_ppm():
    """A TGA whose identification has 80 bytes."""
    plain = encoded(filled("RGB", RED), "TGA", compression=None, id_section=b"a" * 80)
    assert plain[:1] == b"P"
    assert read_image(plain).getpixel((0, 0)) == RED
