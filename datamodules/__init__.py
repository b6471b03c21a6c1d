"""LightningDataModules."""

from .code_tasks import CodeTasks
from .instructions import Instructions
from .medmnist import MedMNIST
from .noise_augmentation import NoiseAugmentation
from .phantoms import Phantoms
from .preferences import Preferences
from .radimagenet import RadImageNet

__all__ = ["CodeTasks", "Instructions", "Preferences", "RadImageNet", "MedMNIST", "Phantoms", "NoiseAugmentation"]
