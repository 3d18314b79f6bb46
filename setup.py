"""Installs the toolkit's packages. `make setup` does this in .venv with the tested versions of constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="ilgnet-toolkit",
    version="0.1.0",
    description="ILGNet (aesthetic image classification) as a Caffe-faithful reproduction toolkit",
    license="BSD-2-Clause",
    python_requires=">=3.9",
    packages=find_packages(include=["torchcaffe*", "ilgnet*"]),
    package_data={
        "torchcaffe.proto": ["caffe.proto"],
        "ilgnet.figures": ["templates/*"],
    },
    install_requires=[
        "numpy>=1.19",
        "protobuf>=3.12",
        "lmdb>=1.0",
        "opencv-python>=4.5,<5",
        "h5py>=2.10",
        "jinja2>=2.11",
        "matplotlib>=3.3",
        "tqdm>=4.57",
        "six>=1.10",  # pycaffe's own dependency: scripts and tests written for it import it
        "pillow>=8.1",
        # The engine needs torch 2.13 (its fused SGD kernel is private API); an environment with a real pycaffe
        # (Python 3.9) runs everything else without it.
        "torch==2.13.0; python_version >= '3.10'",
    ],
    extras_require={
        "test": [
            "pytest>=7",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "ruff",
            "setuptools>=77",
            "onnx",
            "onnxruntime",
            "pillow-heif",
            "rawpy",
            "websocket-client",
            "pydot",
            "scipy",
        ],
        "photos": ["pillow-heif", "rawpy"],  # HEIC, and the preview inside camera RAW
        "onnx": ["onnx", "onnxruntime"],
        "tensorboard": ["tensorboard"],
    },
    entry_points={"console_scripts": ["torchcaffe = torchcaffe.cli.main:main"]},
)
