"""Networks."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic.dataclasses import dataclass

from bat.config.own import Own
from bat.config.strict import LIBRARY, OWN, STRICT
from bat.config.words import meant

Sized = Literal["small_cnn", "mlp"]
Residual = Literal["resnet9", "resnet18", "preact_resnet18", "resnet50"]
Wide = Literal["wrn_28_10", "wrn_34_10"]
_KNOWN = get_args(Sized) + get_args(Residual) + get_args(Wide)

Width = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SizedModel:
    """A small network of a chosen width."""

    name: Sized = Field(
        description="small_cnn (three convolutions with batch normalisation) or mlp (two hidden layers)."
    )
    width: Width = Field(description="Channels of the first convolution, or units of a hidden layer.")

    # here end all names that belong to no other record
    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> Any:
        if name not in get_args(Sized):
            raise ValueError(
                f"no such network: give {', '.join(_KNOWN)}, torchvision:NAME or timm:NAME{meant(name, _KNOWN)}"
            )
        return name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResidualModel:
    """A residual network for small images."""

    name: Residual = Field(
        description="resnet9 (trained in seconds on a GPU), resnet18, preact_resnet18 or resnet50, with a first "
        "convolution for small images (3 x 3, stride 1, no pooling after it)."
    )
    width: Width = Field(
        default=64, description="Channels of the first convolution, which all others are multiples of; published: 64."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WideModel:
    """A wide residual network (Zagoruyko and Komodakis 2016)."""

    name: Wide = Field(description="wrn_28_10 or wrn_34_10: depth and factor, with the same first convolution.")
    width: Width = Field(
        default=16, description="Channels of the first convolution, which all others are multiples of; published: 16."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LibraryModel:
    """Any other network of torchvision or timm, untrained."""

    name: str = Field(
        pattern=LIBRARY,
        description="torchvision:NAME or timm:NAME, a network of that library (timm: pip install timm), never "
        "with trained weights.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnModel(Own):
    """A network of the user's own."""

    name: str = Field(
        pattern=OWN,
        description="module:function of your own, which returns a network: see docs/own_parts.md.",
    )


def _record(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if name in get_args(Residual):
        return "residual"
    if name in get_args(Wide):
        return "wide"
    if not isinstance(name, str) or ":" not in name:
        return "sized"
    return "library" if name.startswith(("torchvision:", "timm:")) else "own"


Model = Annotated[
    Annotated[SizedModel, Tag("sized")]
    | Annotated[ResidualModel, Tag("residual")]
    | Annotated[WideModel, Tag("wide")]
    | Annotated[LibraryModel, Tag("library")]
    | Annotated[OwnModel, Tag("own")],
    Discriminator(_record),
]


def model_record(value: Any) -> Any:
    """Return the record that NAME, NAME:WIDTH, torchvision:NAME, timm:NAME or module:function stands for, or a map."""
    if not isinstance(value, str):
        return value
    name, _, width = value.partition(":")
    # what is no width is the function of a module, but for a slip after a name that is known
    if not width or not (name in _KNOWN or width[:1].isdigit()):
        return {"name": value}
    return {"name": name, "width": int(width) if width.isdecimal() and len(width) < 10 else width}
