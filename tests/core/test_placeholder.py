"""Git LFS pointers, pages and empty files in the place of a model's files are called what they are.

The pointer is that of Git LFS's own specification (docs/spec.md of git-lfs).
"""

import os

import pytest

from lcmcore.errors import BundleError, NetworkError
from lcmcore.runtime import require_file
from lcmcore.util.configfile import read_object, read_table, read_text
from lcmcore.util.placeholder import (
    HEAD_BYTES,
    MAX_FILES,
    placeholder,
    placeholder_at,
    placeholders,
)

pytestmark = pytest.mark.host  # the same on every processor, and hundreds of tests

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)
LFS = "a Git LFS pointer, not the file itself: run `git lfs pull`"
PAGE = "an HTML or XML page, not the file itself: download it again"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (POINTER, LFS),
        (POINTER.replace(b"git-lfs", b"hawser"), LFS),
        (POINTER.ljust(1023, b"\n"), LFS),  # a pointer has fewer than 1024 bytes
        (POINTER.ljust(1024, b"\n"), "None"),
        (b"#" + POINTER, "None"),
        (b"<!DOCTYPE html><title>404", PAGE),
        (b"\xef\xbb\xbf\r\n\t <HTML>", PAGE),
        (b"<head>", PAGE),
        (b"<!-- generated -->\n<html>", PAGE),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code>", PAGE),
        (b"<Error><Code>AccessDenied</Code>", PAGE),
        (b"<|startoftext|>", "None"),
        (b"", "empty: copy or download it again"),
        (b"\x08\x08\x12\x07pytorch", "None"),
        (b"{}", "None"),
    ],
)
def test_what_a_file_is_by_its_beginning(head, words):
    assert str(placeholder(head)) == words


def test_a_long_file_that_begins_as_a_pointer_is_none(tmp_path):
    (tmp_path / "a").write_bytes(POINTER * 100)
    assert placeholder_at(tmp_path / "a") is None
    assert placeholder((POINTER * 100)[:HEAD_BYTES]) is None


def test_what_is_no_file_is_none_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none", tmp_path / "a\0b"):
        assert placeholder_at(path) is None


def test_files_of_a_folder(tmp_path):
    for name in (
        *("model.onnx", "model.onnx_data", "weights/0.data", "config.json", "onnx__MatMul_7"),
        *("merges.txt", "lcm.toml"),
        # Those nobody needs to fetch.
        *("model.safetensors", "diffusion_pytorch_model.fp16.bin", "README.md", "a.PNG"),
        *(".cache/a.onnx", ".gitattributes"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(POINTER)
    (tmp_path / "good.json").write_text("{}")
    found = [(str(path.relative_to(tmp_path)), str(what)) for path, what in placeholders(tmp_path)]
    assert found == [
        (name, LFS)
        for name in (
            *("config.json", "lcm.toml", "merges.txt", "model.onnx", "model.onnx_data"),
            *("onnx__MatMul_7", "weights/0.data"),
        )
    ]


def test_empty_files_count_where_they_cannot_be_right(tmp_path):
    for name in ("a.onnx", "a.onnx_data", "a.data", "a.rknn", "a.json", "merges.txt", "lcm.toml"):
        (tmp_path / name).write_bytes(b"")
    found = [path.name for path, _ in placeholders(tmp_path)]
    assert found == ["a.data", "a.json", "a.onnx", "a.onnx_data", "a.rknn"]


def test_a_folder_of_many_files_is_read_in_part(tmp_path, monkeypatch):
    assert MAX_FILES == 10_000
    monkeypatch.setattr("lcmcore.util.placeholder.MAX_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(POINTER)
    assert [path.name for path, _ in placeholders(tmp_path)] == ["a", "b"]


def test_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "a").write_bytes(POINTER)
    (tmp_path / "unet" / "up").symlink_to(tmp_path)
    (tmp_path / "unet" / "b").symlink_to(tmp_path / "a")
    assert [path.name for path, _ in placeholders(tmp_path / "unet")] == ["b"]


@pytest.mark.parametrize("read", [read_text, read_object, read_table])
@pytest.mark.parametrize(("content", "words"), [(POINTER, LFS), (b"<!doctype html>", PAGE)])
def test_reading_a_text_file_says_what_it_is(read, content, words, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BundleError) as error:
        read(path)
    assert str(error.value) == f"{path}: {words}"


def test_an_empty_table_is_allowed_and_an_empty_object_is_not(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b" \n"):
        path.write_bytes(content)
        assert read_table(path) == {}
        with pytest.raises(BundleError, match=r"file: empty: copy or download it again$"):
            read_object(path)


def test_a_networks_file(tmp_path):
    path = tmp_path / "model.any"
    with pytest.raises(NetworkError, match=r"^unet: no model\.any in "):
        require_file("unet", tmp_path, "model.any")
    path.write_bytes(POINTER)
    with pytest.raises(NetworkError) as error:
        require_file("unet", tmp_path, "model.any")
    assert str(error.value) == f"unet: cannot open {path}: {LFS}"
    path.write_bytes(b"")  # a third party's runtime may need no more than a marker
    assert require_file("unet", tmp_path, "model.any") == path
