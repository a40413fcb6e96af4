"""What ``--augment`` asks for: presets, and lists of torchvision transforms from a TOML or JSON file."""

import dataclasses
import math
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...stores import Manifest
from ...stores.errors import UsageError, unknown
from ..specs import Spec
from .geometry import Interpolation, PaddedCrop, ResizedCrop
from .library import Transform

_MAX_SIZE = 4096
_MAX_FILE_BYTES = 100_000
# Jöhnk's sampler of ratios slows down above; below, all ratios are 0 or 1
_ALPHAS = (0.05, 4.0)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How the views of a store are drawn: crop, flip, the library's transforms, mixing.

    A view is a pure function of (seed, sample id, view) and the sample. Crop, flip and mixing are drawn by
    :mod:`.generator`, the library's transforms by torch's generator, seeded for every sample and view.

    Attributes:
        size: side of the result, in pixels.
        padding: black pixels around an image out of which ``size`` pixels a side are cut; None crops and resizes.
        scale: of the area of a crop to be resized, as fractions of the image's; with ``ratio`` of its width / height.
        ratio: see ``scale``.
        flip: probability of a flip, left to right.
        interpolation: of the resizing, with antialiasing.
        transforms: of the library, after crop and flip, in their order.
        mixup: alpha of mixup's ratio, Beta(alpha, alpha); None for none.
        cutmix: likewise.
        seed: of all views.
        recorded: crops and flips are not drawn but read from the store: somebody else drew them.

    Raises:
        UsageError: a value out of its range.
    """

    size: int
    padding: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    interpolation: Interpolation = "bilinear"
    transforms: tuple[Transform, ...] = ()
    mixup: float | None = None
    cutmix: float | None = None
    seed: int = 0
    recorded: Literal[True] | None = None

    def __post_init__(self) -> None:
        _check("size", self.size, 1, _MAX_SIZE)
        _check("padding", self.padding or 0, 0, self.size - 1)  # with more, a crop could miss the image
        _check("flip", self.flip, 0, 1)
        _check("seed", self.seed, 0, 2**63 - 1)
        for name, low, high in (("scale", 1e-4, 1.0), ("ratio", 1e-2, 1e2)):
            first, last = getattr(self, name)
            _check(name, first, low, high)
            _check(name, last, first, high)
        for name in ("mixup", "cutmix"):
            if (alpha := getattr(self, name)) is not None:
                _check(name, alpha, *_ALPHAS)

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """Read a spec: ``crop-flip,size=32,padding=4``, ``FILE.toml,mixup=0.2`` and the like.

        Raises:
            UsageError: an unknown preset or option (the nearest is suggested), a value out of range, an option that
                does not go with another, or a file that cannot be read.
        """
        spec = Spec.parse(text)
        head = f"{spec.name}:{spec.location}" if spec.location else spec.name
        if Path(head).suffix in (".toml", ".json"):
            beside = asdict(spec.into(_FileOptions))
            return replace(_from_file(Path(head)), **{name: v for name, v in beside.items() if v is not None})
        if spec.name not in _PRESETS or spec.location:
            raise unknown("augmentation", head, [*_PRESETS, "FILE.toml", "FILE.json"])
        return spec.into(_PRESETS[spec.name]).augmentation()

    @classmethod
    def from_dict(cls, fields: dict[str, Any], place: str = "The recorded augmentation") -> "Augmentation":
        """The inverse of :meth:`to_dict`.

        Args:
            fields: of a manifest, or of a file.
            place: what to call it in an error.

        Raises:
            UsageError: a field is unknown, of another type or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise unknown("field of an augmentation", name, known)
        steps = fields.get("transforms", [])
        if not isinstance(steps, list) or not all(isinstance(step, dict) and "name" in step for step in steps):
            raise UsageError(f"{place} cannot be read: transforms must be a list of tables, each with a name.")
        nested = [
            {"name": step["name"], "parameters": {k: v for k, v in step.items() if k != "name"}} for step in steps
        ]
        try:
            return msgspec.convert({**fields, "transforms": nested}, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"{place} cannot be read: {str(error).removesuffix('.')}.") from None

    @classmethod
    def of(cls, manifest: Manifest) -> "Augmentation | None":
        """That of a store's views; None where its inputs are as they come.

        Raises:
            UsageError: as :meth:`from_dict`.
        """
        return None if manifest.augmentation is None else cls.from_dict(manifest.augmentation)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a manifest keeps them: transforms as ``{"name": .., parameter: ..}``."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) is not None}
        fields["transforms"] = [{"name": step.name, **step.parameters} for step in self.transforms]
        return msgspec.json.decode(msgspec.json.encode(fields))  # as JSON gives it back: lists for tuples

    @property
    def crop(self) -> PaddedCrop | ResizedCrop:
        """How crops are drawn."""
        if self.padding is not None:
            return PaddedCrop(size=self.size, padding=self.padding)
        return ResizedCrop(scale=self.scale, ratio=self.ratio)

    @property
    def mixes(self) -> bool:
        """Whether inputs are mixed with others."""
        return self.mixup is not None or self.cutmix is not None


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What every preset takes."""

    size: int
    flip: float = 0.5
    mixup: float | None = None
    cutmix: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _CropFlip(_Options):
    """A crop out of the padded image, and a flip: the augmentation of CIFAR's recipes."""

    padding: int = 4

    def augmentation(self) -> Augmentation:
        return Augmentation(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class _RrcFlip(_Options):
    """A random resized crop and a flip: the augmentation of ImageNet's recipes."""

    scale: tuple[float, float] = Augmentation.scale
    ratio: tuple[float, float] = Augmentation.ratio
    interpolation: Interpolation = Augmentation.interpolation

    def augmentation(self) -> Augmentation:
        return Augmentation(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class _TrivialAugment(_Options):
    """Either crop, a flip, and one operation of random strength.

    Samuel G. Müller and Frank Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    https://arxiv.org/abs/2103.10158.
    """

    padding: int | None = None
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    interpolation: Interpolation | None = None

    def augmentation(self) -> Augmentation:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        resizing = [name for name in ("scale", "ratio", "interpolation") if name in given]
        if self.padding is not None and resizing:
            raise UsageError(f"padding= cuts crops out and {resizing[0]}= resizes them. Give one or the other.")
        return Augmentation(
            **{name: value for name, value in given.items() if name in _FIELDS}, transforms=self.steps()
        )

    def steps(self) -> tuple[Transform, ...]:
        return (Transform(name="TrivialAugmentWide"),)


@dataclass(frozen=True, kw_only=True)
class _RandAugment(_TrivialAugment):
    """Either crop, a flip, and ``num_ops`` operations of strength ``magnitude`` of 31.

    Ekin D. Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
    https://arxiv.org/abs/1909.13719.
    """

    num_ops: int = 2
    magnitude: int = 9

    def steps(self) -> tuple[Transform, ...]:
        _check("num_ops", self.num_ops, 1, 10)
        _check("magnitude", self.magnitude, 0, 30)
        return (Transform(name="RandAugment", parameters={"num_ops": self.num_ops, "magnitude": self.magnitude}),)


@dataclass(frozen=True, kw_only=True)
class _FileOptions:
    """What may be given beside a file."""

    mixup: float | None = None
    cutmix: float | None = None
    seed: int | None = None


_PRESETS: dict[str, type[_CropFlip] | type[_RrcFlip] | type[_TrivialAugment]] = {
    "crop-flip": _CropFlip,
    "rrc-flip": _RrcFlip,
    "trivial-augment": _TrivialAugment,
    "rand-augment": _RandAugment,
}
_FIELDS = frozenset(field.name for field in dataclasses.fields(Augmentation))


def _from_file(path: Path) -> Augmentation:
    try:
        data = path.read_bytes()[: _MAX_FILE_BYTES + 1]
        if len(data) > _MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_FILE_BYTES} bytes: it is no list of transforms.")
        fields = tomllib.loads(data.decode()) if path.suffix == ".toml" else msgspec.json.decode(data)
    except OSError as error:
        raise UsageError(f"The augmentation {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The augmentation {path} is not valid {path.suffix[1:].upper()}: {error}.") from None
    if not isinstance(fields, dict):
        raise UsageError(f"The augmentation {path} must be a table with size=.., transforms=[..] and so on.")
    if "recorded" in fields:
        raise UsageError(f"The augmentation {path} has 'recorded', which only an import of views sets. Leave it out.")
    return Augmentation.from_dict(fields, f"The augmentation {path}")


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"The augmentation's {name} is {value:g}; it must be from {low:g} to {high:g}.")
