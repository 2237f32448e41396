"""Networks: a body of features and a linear head, with normalisation as the first layer."""

from bat.models.network import Network, attackable, build, for_attacks, lowered, mode, seeded

__all__ = ["Network", "attackable", "build", "for_attacks", "lowered", "mode", "seeded"]
