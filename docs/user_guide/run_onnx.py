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
        gray = image.mode in ("1", "L", "LA", "La")
        if image.mode in ("LA", "La", "RGBA", "RGBa") or image.has_transparency_data:
            image = image.convert("LA" if gray else "RGBA")
            opaque = Image.new("L" if gray else "RGB", image.size, "white")
            opaque.paste(image.convert(opaque.mode), mask=image.getchannel("A"))
            image = opaque
        return np.asarray(image.convert("RGB"))


def main(model, *paths):
    """Print a line for each file: its class and the probability of every class."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    print("file", "predicted", *names, sep="\t")
    for path in paths:
        probabilities, decision = session.run(None, {"image": read(path)})
        print(path, names[decision[0]], *(f"{p:.9g}" for p in probabilities[0]), sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
