"""Every feature map by its name."""

from typing import Any

from ...results.names import unknown_name
from .feature_map import FeatureMap, Role
from .fixed import CosformerMap, EluMap, ExpMap, IdentityLinearMap, PerformerMap, ReluMap
from .learned import HedgehogMap, T2RMap, TaylorMap

FEATURE_MAPS: dict[str, type[FeatureMap]] = {
    "elu": EluMap,
    "relu": ReluMap,
    "performer": PerformerMap,
    "cosformer": CosformerMap,
    "t2r": T2RMap,
    "taylor": TaylorMap,
    "exp": ExpMap,
    "identity_linear": IdentityLinearMap,
    "hedgehog": HedgehogMap,
}


def make_feature_map(
    name: str, heads: int, head_dim: int, *, role: Role = "query", seed: int = 0, **options: Any
) -> FeatureMap:
    """Builds a map by its name.

    Args:
        name: a key of `FEATURE_MAPS`.
        heads: heads of the tensor it is applied to.
        head_dim: size of one head's vectors.
        role: "query" or "key".
        seed: seed of random weights; the two maps of a layer take the same seed.
        **options: the map's own options, such as `t` of exp or `length` of cosformer.

    Raises:
        ValueError: an unknown name (the message names the nearest ones), or a value that the map refuses.
        TypeError: an option that the map does not have.
    """
    if name not in FEATURE_MAPS:
        raise unknown_name("feature map", name, FEATURE_MAPS)
    return FEATURE_MAPS[name](heads, head_dim, role=role, seed=seed, **options)
