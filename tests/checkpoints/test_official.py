"""Public files: layouts made here tensor by tensor, and the released heads themselves."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from soloist.checkpoints import OfficialWeights, load_official
from soloist.checkpoints.files import save_tensors
from soloist.config import InferenceConfig
from soloist.errors import CheckpointError
from soloist.models import SOLO
from soloist.postprocess import postprocess

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
State = dict[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var")
BLOCKS = (1, 2, 1, 1)


def resnet_names() -> dict[str, str]:
    """torchvision's and detectron2's names of a small bottleneck ResNet, row by row."""
    names = {"conv1.weight": "stem.conv1.weight"}
    names |= {f"bn1.{kind}": f"stem.conv1.norm.{kind}" for kind in NORM}
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            here, there = f"layer{stage}.{block}", f"res{stage + 1}.{block}"
            for k in (1, 2, 3):
                names[f"{here}.conv{k}.weight"] = f"{there}.conv{k}.weight"
                for kind in NORM:
                    names[f"{here}.bn{k}.{kind}"] = f"{there}.conv{k}.norm.{kind}"
            if block == 0:
                names[f"{here}.downsample.0.weight"] = f"{there}.shortcut.weight"
                for kind in NORM:
                    names[f"{here}.downsample.1.{kind}"] = f"{there}.shortcut.norm.{kind}"
    return names


NAMES = resnet_names()


@pytest.fixture
def resnet() -> State:
    """Small tensors under torchvision's names, each with values of its own."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(3, generator=generator) for name in NAMES}


def prefixed(state: State, prefix: str, **more: Tensor) -> State:
    """Tensors under a prefix, and others, whose names are written with `__` for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in more.items()}
    return {f"{prefix}{name}": tensor for name, tensor in state.items()} | named


def counted(state: State) -> State:
    """With the counters that batch norms have where they are trained."""
    counters = [name for name in state if name.endswith("running_mean")]
    return state | {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for name in counters
    }


def detectron2(state: State, prefix: str = "") -> State:
    return {f"{prefix}{NAMES[name]}": tensor for name, tensor in state.items()}


def arrays(state: State) -> dict[str, npt.NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in state.items()}


ONE = torch.ones(1)
META = {"mmcv_version": "1.3.9", "time": "Mon", "config": "model = dict()"}
ARGUMENTS = Namespace(arch="resnet50", lr=0.03, epochs=800)


# A file of each kind: what is saved, its kind, and what is left over.
def layouts(state: State) -> dict[str, tuple[Any, str, set[str]]]:
    moco = prefixed(state, "module.encoder_q.", module__encoder_q__fc__0__weight=ONE)
    moco |= prefixed(state, "module.encoder_k.", module__queue=ONE, module__queue_ptr=ONE)
    densecl = prefixed(state, "encoder_q.0.", encoder_q__1__mlp__0__weight=ONE, queue2=ONE)
    densecl |= prefixed(state, "backbone.")
    mmlab = prefixed(state, "backbone.", neck__mlp__0__weight=ONE, head__fc_cls__weight=ONE)
    swav = prefixed(
        state,
        "module.",
        module__projection_head__0__weight=ONE,
        module__projection_head__1__running_mean=ONE,
        module__prototypes__weight=ONE,
    )
    dino = prefixed(state, "backbone.", head__mlp__0__weight=ONE, head__last_layer__weight_g=ONE)
    student = {name: tensor + 1 for name, tensor in prefixed(dino, "module.").items()}
    detector = detectron2(state, "backbone.bottom_up.") | {"roi_heads.box_head.fc1.weight": ONE}
    return {
        "densecl-backbone": (
            {"state_dict": OrderedDict(state), "author": "OpenSelfSup"}, "torchvision", set()
        ),
        "densecl-training": (
            {"state_dict": OrderedDict(densecl), "optimizer": {"state": {}}, "meta": META},
            "moco",
            densecl.keys() - prefixed(state, "encoder_q.0.").keys(),
        ),
        "moco": (
            {"epoch": 200, "arch": "resnet50", "state_dict": moco, "optimizer": {"state": {}}},
            "moco",
            moco.keys() - prefixed(state, "module.encoder_q.").keys(),
        ),
        "openmmlab": (
            {"meta": META, "state_dict": OrderedDict(mmlab)},
            "openmmlab",
            {"neck.mlp.0.weight", "head.fc_cls.weight"},
        ),
        "swav": (swav, "swav", swav.keys() - prefixed(state, "module.").keys()),
        "dino-backbone": (state, "torchvision", set()),
        "dino-training": (
            {"student": student, "teacher": dino, "epoch": 800, "args": ARGUMENTS},
            "dino",
            {"head.mlp.0.weight", "head.last_layer.weight_g"},
        ),
        "torchvision": (
            OrderedDict(prefixed(state, "", fc__weight=ONE, fc__bias=ONE)),
            "torchvision",
            {"fc.weight", "fc.bias"},
        ),
        "data-parallel": (prefixed(state, "module."), "torchvision", set()),
        "detectron2-mask-rcnn": (
            {"model": detector, "optimizer": {}, "iteration": 89999},
            "detectron2",
            {"roi_heads.box_head.fc1.weight"},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["pth", "pth.tar", "pt"])
@pytest.mark.parametrize("layout", layouts({}))
def test_a_backbone_comes_out_of_each_kind_of_file(
    tmp_path: Path, resnet: State, layout: str, suffix: str
) -> None:
    content, kind, left_over = layouts(resnet)[layout]
    torch.save(content, tmp_path / f"w.{suffix}")
    weights = load_official(tmp_path / f"w.{suffix}")
    assert weights.kind.name == kind
    assert weights.tensors.keys() == {f"backbone.network.{name}" for name in resnet}
    for name, tensor in resnet.items():
        assert torch.equal(weights.tensors[f"backbone.network.{name}"], tensor), name
    assert set(weights.left_over) == left_over
    assert weights.num_classes is None


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_backbone_comes_out_of_a_pickle_of_detectron2(
    tmp_path: Path, resnet: State, prefix: str, protocol: int
) -> None:
    """As the converters of MoCo and DenseCL write it."""
    model = arrays(detectron2(resnet, prefix)) | {"stem.fc.weight": np.ones(2)}
    content = {"model": model, "__author__": "MOCO", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    weights = load_official(tmp_path / "w.pkl")
    assert weights.kind.name == "detectron2"
    assert weights.left_over == ("stem.fc.weight",)
    for name, tensor in resnet.items():
        assert torch.equal(weights.tensors[f"backbone.network.{name}"], tensor), name


def test_own_files_are_read_by_the_same_function(tmp_path: Path, resnet: State) -> None:
    save_tensors(tmp_path / "backbone.safetensors", counted(resnet), metadata={})
    model = prefixed(resnet, "backbone.network.", fpn__lateral__0__bias=ONE)
    save_tensors(tmp_path / "model.safetensors", model, metadata={})
    backbone = load_official(tmp_path / "backbone.safetensors")
    segmenter = load_official(str(tmp_path / "model.safetensors"))
    assert backbone.tensors.keys() == prefixed(counted(resnet), "backbone.network.").keys()
    assert segmenter.kind.name == "soloist"
    assert segmenter.tensors.keys() == model.keys()


# Fitting to a network


@pytest.fixture
def weights(tmp_path: Path, resnet: State) -> OfficialWeights:
    torch.save(prefixed(resnet, "", fc__bias=ONE), tmp_path / "w.pth")
    return load_official(tmp_path / "w.pth")


def test_what_a_network_needs_is_kept_apart_from_the_rest(
    weights: OfficialWeights, resnet: State
) -> None:
    own = prefixed(counted(resnet), "backbone.network.")
    del own["backbone.network.conv1.weight"]
    own["backbone.network.more"] = ONE
    fitted = weights.fitted(own)
    assert fitted.missing == ("backbone.network.more",)
    assert fitted.left_over == ("fc.bias", "conv1.weight")
    assert len(fitted.tensors) == len(resnet) - 1
    assert fitted.summary() == (
        f"{weights.path}: ResNet (torchvision names); {len(resnet) - 1} tensors used, "
        "1 missing (backbone.network.more), 2 left over (fc.bias, conv1.weight)"
    )


def test_a_summary_names_a_few(weights: OfficialWeights, resnet: State) -> None:
    summary = weights.fitted({}).summary()
    assert summary.endswith(
        f"0 tensors used, 0 missing, {len(resnet) + 1} left over "
        f"(fc.bias, conv1.weight, bn1.weight and {len(resnet) - 2} more)"
    )


def test_a_tensor_of_another_shape_is_reported(weights: OfficialWeights) -> None:
    own = {"backbone.network.conv1.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"'conv1.weight' must be \(2, 2\), got \(3,\); is"):
        weights.fitted(own)


@pytest.mark.parametrize(
    "own_name",
    ["stages_0.blocks.0.gamma", "stages.0.blocks.0.gamma", "model.stages.0.blocks_0.gamma"],
)
def test_names_that_timm_joined_find_their_tensors(tmp_path: Path, own_name: str) -> None:
    torch.save({"stages.0.blocks.0.gamma": ONE, "head.fc.bias": ONE}, tmp_path / "w.pth")
    fitted = load_official(tmp_path / "w.pth").fitted({f"backbone.network.{own_name}": ONE})
    assert list(fitted.tensors) == [f"backbone.network.{own_name}"]
    assert fitted.missing == ()


# Files that cannot be used


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        pytest.param([103.53, 116.28, 123.675], [57.375, 57.12, 58.395], id="bgr"),
        pytest.param([123.675, 116.28, 103.53], [1.0, 1.0, 1.0], id="caffe"),
        pytest.param([128.0], [1.0], id="grey"),
    ],
)
def test_weights_for_other_pixels_are_refused(
    tmp_path: Path, resnet: State, mean: list[float], std: list[float]
) -> None:
    state = detectron2(resnet) | {
        "pixel_mean": torch.tensor(mean).view(-1, 1, 1),
        "pixel_std": torch.tensor(std).view(-1, 1, 1),
    }
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"must be for RGB pixels with pixel_\w+ \("
    ) as caught:
        load_official(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_the_usual_pixels_are_left_over(tmp_path: Path, resnet: State) -> None:
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    torch.save({"model": detectron2(resnet) | {"pixel_mean": mean}}, tmp_path / "w.pth")
    assert load_official(tmp_path / "w.pth").left_over == ("pixel_mean",)


def test_two_networks_in_one_file_are_refused(tmp_path: Path, resnet: State) -> None:
    torch.save(resnet | prefixed(resnet, "module."), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"must hold one network, got 'conv1\.weight'"):
        load_official(tmp_path / "w.pth")


# The released heads


class Pyramid(nn.Module):
    """Gives the same maps whatever it gets."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _: object) -> list[Tensor]:
        return self.maps


def test_released_heads_give_the_released_outputs(golden: Golden, tmp_path: Path) -> None:
    state = {name: torch.from_numpy(value) for name, value in golden("head_state_dict").items()}
    torch.save({"model": state | {"_iter": ONE}, "iteration": 29999}, tmp_path / "model.pth")
    weights = load_official(tmp_path / "model.pth")
    assert (weights.kind.name, weights.num_classes) == ("freesolo", 2)
    assert weights.left_over == ("_iter",)
    network = SOLO(
        nn.Identity(),
        backbone_channels=[1],
        fpn_channels=64,
        head_channels=64,
        mask_channels=32,
        kernel_channels=64,
        num_classes=2,
    )
    expected = golden("head")
    network.fpn = Pyramid([torch.from_numpy(expected[f"feat_p{i}"]) for i in range(2, 7)])  # type: ignore[assignment]  # stands in
    fitted = weights.fitted(network.state_dict())
    assert fitted.missing == ()
    network.load_state_dict(fitted.tensors)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, 128, 160))
    pairs = [(outputs.mask_features, expected["mask_pred"])]
    for level in range(5):
        wanted = expected[f"emb_l{level}"]
        pairs += [
            (outputs.category_logits[level], expected[f"cate_l{level}"]),
            (outputs.kernels[level], expected[f"kernel_l{level}"]),
            (outputs.semantic_embeddings[level][:, : wanted.shape[1]], wanted),
        ]
    for got, values in pairs:
        reference = torch.from_numpy(values)
        scale = float(reference.abs().max())
        torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-5 * scale)
    released = golden("inference")
    (found,) = postprocess(
        outputs,
        input_sizes=[(128, 160)],
        original_sizes=[(200, 250)],
        config=InferenceConfig(category_threshold=float(released["full_score_thr"])),
        strides=(8, 8, 16, 32, 32),
    )
    scores = torch.from_numpy(released["full_scores"])
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)
