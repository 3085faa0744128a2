"""Networks of torchvision and timm, and this package's own, with random weights: what the tables of
networks, of the road and of rivals measure."""

from __future__ import annotations

import importlib
import importlib.util
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.models import MODELS


@dataclass(frozen=True)
class Network:
    """Where a network comes from, and the images that it is given."""

    name: str
    source: str = "classification"
    shape: tuple[int, ...] = (3, 96, 96)
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network with random weights and the statistics of random images."""
        torch.manual_seed(0)
        models: Any = torchvision().models  # timm imports torchvision too
        if self.source == "timm":
            timm = importlib.import_module("timm")
            return with_statistics(timm.create_model(self.name, pretrained=False), self.shape)
        place = self.name if self.source == "classification" else f"{self.source}.{self.name}"
        factory = operator.attrgetter(place)(models)
        return with_statistics(factory(weights=None, **self.settings), self.shape)


SEGMENTATION: dict[str, Any] = {"source": "segmentation", "settings": {"weights_backbone": None}}
DETECTION = "detection.backbone_utils"
LARGE, VIDEO = (3, 224, 224), (3, 4, 48, 48)


def _torchvision(names: str, **details: Any) -> list[Network]:
    return [Network(name, **details) for name in names.split()]


def _timm(names: str, size: int = 96) -> list[Network]:
    return [Network(name, "timm", (3, size, size)) for name in names.split()]


TORCHVISION = (
    *_torchvision("alexnet vgg11 squeezenet1_1 resnet18 resnet50 resnext50_32x4d"),
    *_torchvision("mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0"),
    *_torchvision("shufflenet_v2_x0_5 shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s"),
    *_torchvision("regnet_y_400mf regnet_x_400mf densenet121 densenet161 convnext_tiny"),
    Network("googlenet", settings={"init_weights": False}),
    Network("inception_v3", settings={"init_weights": False, "aux_logits": False}),
    *_torchvision("vit_b_32 swin_t maxvit_t", shape=LARGE),
    *_torchvision("lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large", **SEGMENTATION),
    *_torchvision("fcn_resnet50", **SEGMENTATION),
    Network("resnet_fpn_backbone", DETECTION, settings={"backbone_name": "resnet18"}),
    *_torchvision("r3d_18 mc3_18 r2plus1d_18", source="video", shape=VIDEO),
    *_torchvision("quantization.resnet18 quantization.mobilenet_v3_large"),
    *_torchvision("quantization.shufflenet_v2_x0_5"),
)
TIMM = (
    *_timm("mobilenetv3_small_050 lcnet_050 ghostnet_050 repvgg_a0 mixnet_s efficientnet_lite0"),
    *_timm("tinynet_e resnet10t fbnetc_100 mobileone_s0 convnext_atto semnasnet_075 spnasnet_100"),
    *_timm("rexnet_100 dla34 hardcorenas_a mobilenetv4_conv_small gernet_s starnet_s050"),
    *_timm("hrnet_w18_small cs3darknet_s res2net50_26w_4s ghostnetv2_100 eca_nfnet_l0"),
    *_timm(
        "repghostnet_050 cspnext_tiny fasternet_t0 lcnetv2_small repvit_m1 ese_vovnet19b_slim_dw"
    ),
    *_timm("mobilevit_xxs edgenext_xx_small fastvit_t8 poolformer_s12", size=128),
    *_timm("levit_128s vit_tiny_patch16_224 deit_tiny_patch16_224", size=224),
)


def networks() -> dict[str, Network]:
    """All that can be had here, by name."""
    known = [*TORCHVISION, *(TIMM if importlib.util.find_spec("timm") else ())]
    return {network.name: network for network in known}


def classifier(name: str, size: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A model of this package, or a network of torchvision for images of ``size`` pixels, and the
    shape [C, H, W] of its images. Statistics are those of small images."""
    if name not in MODELS.names():
        return Network(name, shape=(3, 64, 64)).build(), (3, size, size)
    torch.manual_seed(0)
    model: Any = MODELS.get(name)()
    return with_statistics(model, model.input_shape), model.input_shape


def with_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """``model`` in eval mode, its batch norms random and with the statistics of random images of
    ``shape`` [C, ...], and nothing of its head 0, as transformers have it before training."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean: nothing is left of the ones it starts from
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        for _ in range(4):
            model.train()(random_images(16, shape))
    return model.eval()


def random_images(
    count: int, shape: tuple[int, ...], generator: torch.Generator | None = None
) -> Tensor:
    """[``count``, *``shape``] in [0, 1]: patches of random colours under noise, since networks
    average pure noise away, and all images are then alike."""
    coarse = torch.rand(count, shape[0], *(4 for _ in shape[1:]), generator=generator)
    patches = functional.interpolate(coarse, shape[1:])
    return 0.75 * patches + 0.25 * torch.rand(count, *shape, generator=generator)
