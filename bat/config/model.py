"""Networks."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic.dataclasses import dataclass

from bat.config.own import Own
from bat.config.strict import LIBRARY, OWN, STRICT
from bat.config.words import meant

Sized = Literal["small_cnn", "mlp"]
Fixed = Literal["resnet9", "resnet18", "preact_resnet18", "resnet50", "wrn_28_10", "wrn_34_10"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SizedModel:
    """A small network of a chosen width."""

    name: Sized = Field(
        description="small_cnn (three convolutions with batch normalisation) or mlp (two hidden layers)."
    )
    width: int = Field(ge=1, le=4096, description="Channels of the first convolution, or units of a hidden layer.")

    # here end all names that belong to no other record
    @field_validator("name", mode="before")
    @classmethod
    def _known(cls, name: Any) -> Any:
        if name not in get_args(Sized):
            raise ValueError(
                f"no such network: give {', '.join(get_args(Sized))} with a width, or without one "
                f"{', '.join(get_args(Fixed))}, torchvision:NAME or timm:NAME"
                f"{meant(name, get_args(Sized) + get_args(Fixed))}"
            )
        return name


class _WithoutWidth:
    @model_validator(mode="before")
    @classmethod
    def _width_taken_away(cls, value: Any) -> Any:
        # files extend config.yaml, whose model has a width: null takes it away
        if not isinstance(value, dict) or "width" not in value:
            return value
        if value["width"] is not None:
            raise ValueError(
                f"{value['name']} has no width to choose: remove it, and where the file extends one with a width "
                "write width: null"
            )
        return {key: value[key] for key in value if key != "width"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FixedModel(_WithoutWidth):
    """A residual network for small images, of the size that its name says."""

    name: Fixed = Field(
        description="resnet9 (trained in seconds on a GPU), resnet18, preact_resnet18, resnet50, wrn_28_10 or "
        "wrn_34_10, with a first convolution for small images (3 x 3, stride 1, no pooling after it)."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LibraryModel(_WithoutWidth):
    """Any other network of torchvision or timm, untrained."""

    name: str = Field(
        pattern=LIBRARY,
        description="torchvision:NAME or timm:NAME, a network of that library (timm: pip install timm), never "
        "with trained weights.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnModel(_WithoutWidth, Own):
    """A network of the user's own."""

    name: str = Field(
        pattern=OWN,
        description="module:function of your own, which returns a network: see docs/own_parts.md.",
    )


def _record(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if name in get_args(Fixed):
        return "fixed"
    if not isinstance(name, str) or ":" not in name:
        return "sized"
    return "library" if name.startswith(("torchvision:", "timm:")) else "own"


Model = Annotated[
    Annotated[SizedModel, Tag("sized")]
    | Annotated[FixedModel, Tag("fixed")]
    | Annotated[LibraryModel, Tag("library")]
    | Annotated[OwnModel, Tag("own")],
    Discriminator(_record),
]
