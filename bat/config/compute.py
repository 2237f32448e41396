"""How training computes: precision, memory layout, compilation, and how long it may go without a checkpoint."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bat.config.strict import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Compute:
    """What changes the speed and, by rounding, the numbers of training; evaluation always computes in float32."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Of the network's body in training, its attack included; the head and all losses are float32. "
        "float16 scales the loss.",
    )
    channels_last: bool = Field(
        default=False, description="Keep images and weights with channels last: faster convolutions, on CPUs too."
    )
    compile: bool = Field(
        default=False, description="Compile the network's body (torch.compile): worth it for long runs on a GPU."
    )
    micro_batch: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="Largest number of samples in a pass; gradients of a larger batch are summed up over parts, each "
        "with batch normalisation, weights, pairs and weight perturbation of its own. 0: whole batches.",
    )
