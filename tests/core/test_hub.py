"""What is answered to a name of a published model."""

import pytest

from lcmcore.hub import how_to_fetch


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        (
            "SimianLuo/LCM_Dreamshaper_v7",
            [
                "git lfs install && git clone https://huggingface.co/SimianLuo/LCM_Dreamshaper_v7",
                "lcm build onnx LCM_Dreamshaper_v7 LCM_Dreamshaper_v7-onnx",
            ],
        ),
        (
            "https://huggingface.co/TheyCallMeHex/LCM-Dreamshaper-V7-ONNX/",
            [
                "git lfs install &&"
                " git clone https://huggingface.co/TheyCallMeHex/LCM-Dreamshaper-V7-ONNX",
                "lcm info LCM-Dreamshaper-V7-ONNX",
            ],
        ),
        (
            "danielferr85/lcm-sd-1.5-rknn-2.3.2-rk3588",
            [
                "git lfs install &&"
                " git clone https://huggingface.co/danielferr85/lcm-sd-1.5-rknn-2.3.2-rk3588",
                "lcm info lcm-sd-1.5-rknn-2.3.2-rk3588",
            ],
        ),
        (
            "radxa/Stable-Diffusion-LCM_RKNN",
            [
                "pip install modelscope && modelscope download --model"
                " radxa/Stable-Diffusion-LCM_RKNN --local_dir Stable-Diffusion-LCM_RKNN",
                "lcm info Stable-Diffusion-LCM_RKNN/model",
            ],
        ),
    ],
)
def test_two_commands_fetch_and_build_it(name, commands):
    answer = how_to_fetch(name)
    assert answer.split("`")[1::2] == commands
    assert ("7a-a-published-model-directory" in answer) is ("rknn" in name.lower())


@pytest.mark.parametrize(
    "name",
    ["model", "a/b/c", "/a/b", "./b", "../b", "~/b", "a/.b", "a b/c", "a;b/c", "a/$(b)", "-a/b"],
)
def test_what_looks_like_a_path_is_none(name):
    assert how_to_fetch(name) is None


def test_in_a_folder_that_is_there_a_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert how_to_fetch("models/lcm") is not None
    (tmp_path / "models").mkdir()
    assert how_to_fetch("models/lcm") is None
