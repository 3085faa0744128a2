"""The post's network in Keras 3: trained with Keras's defaults, or with one of PyTorch's in its
place; extra ``keras``.

python experiments/keras_twin.py [--instead DEFAULT] [--seed 0] [--epochs 15] --out
runs/verdict/keras
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qstrategies.cli import guarded
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location, Split
from qstrategies.errors import check_choice, check_range
from qstrategies.files import atomic_write
from qstrategies.models.cnn import CNN

INSTEAD = ("nothing", "initialisation", "batch norm", "Adam epsilon")
"""Which default is PyTorch's: uniform weights and biases within 1 / sqrt(fan in) for Glorot's and
zeros; BN momentum 0.9 and epsilon 1e-5 for 0.99 and 1e-3; Adam epsilon 1e-8 for 1e-7."""
BATCH = 64
CALIBRATION = 1024


def name(instead: str, seed: int, epochs: int) -> str:
    """The file name, without ending, of one trained network."""
    return f"{instead.replace(' ', '_')}-e{epochs}-s{seed}"


def build(instead: str) -> Any:
    """The network, compiled: images [N, 28, 28, 1] in [0, 1] -> logits [N, 10]."""
    import keras

    def start(fan_in: int) -> dict[str, Any]:
        if instead != "initialisation":
            return {}
        bound = fan_in**-0.5
        return {
            f"{kind}_initializer": keras.initializers.RandomUniform(-bound, bound)
            for kind in ("kernel", "bias")
        }

    norm = {"momentum": 0.9, "epsilon": 1e-5} if instead == "batch norm" else {}
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, **start(9)),
            layers.BatchNormalization(**norm),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, **start(32 * 9)),
            layers.BatchNormalization(**norm),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, **start(1600)),
        ]
    )
    optimizer = keras.optimizers.Adam(
        1e-3, **({"epsilon": 1e-8} if instead == "Adam epsilon" else {})
    )
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def images_of(split: Split) -> NDArray[np.float32]:
    """As Keras takes them: [N, 28, 28, 1] in [0, 1]."""
    return (split.images.permute(0, 2, 3, 1).numpy() / np.float32(255)).astype(np.float32)


def weights_for_torch(model: Any) -> dict[str, NDArray[np.float32]]:
    """The state of the shared CNN: kernels as [out, in, height, width], the flattened features in
    channel order."""
    first, norm1, second, norm2, linear = (layer for layer in model.layers if layer.weights)
    state: dict[str, Any] = {}
    for target, layer in (("conv1", first), ("conv2", second)):
        kernel, bias = layer.get_weights()
        state |= {f"{target}.weight": kernel.transpose(3, 2, 0, 1), f"{target}.bias": bias}
    for target, layer in (("bn1", norm1), ("bn2", norm2)):
        values = dict(
            zip(("weight", "bias", "running_mean", "running_var"), layer.get_weights(), strict=True)
        )
        state |= {f"{target}.{key}": value for key, value in values.items()} | {
            f"{target}.eps": np.float32(layer.epsilon)
        }
    kernel, bias = linear.get_weights()
    state |= {
        "fc.weight": kernel.reshape(5, 5, 64, 10).transpose(3, 2, 0, 1).reshape(10, 1600),
        "fc.bias": bias,
    }
    return {key: np.ascontiguousarray(value) for key, value in state.items()}


def load(path: Path) -> CNN:
    """The shared CNN with the weights in ``path``."""
    with np.load(path, allow_pickle=False) as stored:
        state = {key: torch.from_numpy(stored[key]) for key in stored.files if "." in key}
    model = CNN()
    for norm in ("bn1", "bn2"):
        getattr(model, norm).eps = float(state.pop(f"{norm}.eps"))
    model.load_state_dict(state)
    return model.eval()


def litert(model: Any, calibration: NDArray[np.float32]) -> bytes:
    """``model`` in int8 throughout, as LiteRT's converter makes it from the images of
    ``calibration``."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def litert_classes(content: bytes, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """The classes [N] that LiteRT computes with the int8 model ``content``."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], images.shape)
    interpreter.allocate_tensors()
    scale, zero_point = entry["quantization"]
    interpreter.set_tensor(
        entry["index"], np.clip(np.rint(images / scale + zero_point), -128, 127).astype(np.int8)
    )
    interpreter.invoke()
    return interpreter.get_tensor(out["index"]).argmax(1)


def main() -> int:
    """Train one network; leave its weights, learning curve and float classes of the test images,
    and LiteRT's int8 ones."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--instead", default="nothing", help=f"the default that is PyTorch's: {', '.join(INSTEAD)}"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    check_choice("default", chosen.instead, INSTEAD)
    check_range("epochs", chosen.epochs, 1, 1000)
    import keras

    keras.utils.set_random_seed(chosen.seed)
    splits = DATASETS.get("mnist")(Location()).splits
    images = {key: images_of(split) for key, split in splits.items()}
    model = build(chosen.instead)
    validation = images["validation"], splits["validation"].labels.numpy()
    history = model.fit(
        images["train"],
        splits["train"].labels.numpy(),
        BATCH,
        chosen.epochs,
        verbose=0,
        validation_data=validation,
    ).history
    found: dict[str, Any] = {
        "validation_accuracy": history["val_accuracy"],
        "float_classes": model.predict(images["test"], verbose=0).argmax(1),
    }
    try:
        content = litert(model, images["train"][:CALIBRATION])
        found |= {
            "litert_classes": litert_classes(content, images["test"]),
            "litert_bytes": len(content),
        }
    except ImportError as error:
        print(f"LiteRT skipped: {error}", flush=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **found, **weights_for_torch(model))
    atomic_write(
        chosen.out / f"{name(chosen.instead, chosen.seed, chosen.epochs)}.npz", buffer.getvalue()
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
