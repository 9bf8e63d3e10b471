"""Predict image files with a model of sktransfer.export_onnx: python run_onnx.py MODEL FILE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS //= 2  # Pillow refuses twice as many: 89 million, as sktransfer does


def read(path):
    """Decode a file as sktransfer does: upright, the first frame, over white, in color."""
    with Image.open(path) as file:
        file.load()
        image = ImageOps.exif_transpose(file)
        if image.mode[0] in "IF":
            raise ValueError(f"{path} has more than 8 bits, which the model does not take")
        if image.mode in ("LA", "La", "RGBA", "RGBa") or image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
            white = Image.new(image.mode[:-1], image.size, "white")
            image = Image.composite(image.convert(white.mode), white, image.getchannel("A"))
        return np.asarray(image.convert("RGB"))


def main(model, *paths):
    """Print a line for each file: its class and the probability of every class."""
    options = onnxruntime.SessionOptions()  # 8-bit files: the same on processors without VNNI
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    print("file", "predicted", *names, sep="\t")
    for path in paths:
        probabilities, decision = session.run(None, {"image": read(path)})
        print(path, names[decision[0]], *(f"{p:.9g}" for p in probabilities[0]), sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
