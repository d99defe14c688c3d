"""Sizes of a Transformer that is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a Transformer.

    Attributes:
        layers: Blocks.
        heads: Query heads.
        kv_heads: Key and value heads.
        width: Model width; `width / heads` is the head dim.
        mlp_width: Hidden width of the MLP.
        context_length: Longest sequence, in tokens or (with the class token) patches.
        causal: Decoder if true, encoder otherwise.
        vocab_size: Token ids; None for images. For vectors the number of outputs at each position, None for one.
        num_classes: Classes of the classification head; None for outputs at each position, which for tokens are tied
            to the embedding.
        image_size: Pixels per side; None for tokens.
        patch_size: Pixels per side of a patch.
        channels: Image channels.
        rope: Rotary positions instead of learned absolute ones.
        short_conv: Kernel size of a depthwise causal convolution over q, k and v; 0 for none.
        dropout: Probability, on embeddings and on each residual branch.
        head_width: Hidden width of the classification head; 0 for a linear one.
        towers: Token sequences in a row, 1 or 2; the model reads each sequence separately, and the head compares two.
        input_dim: Real numbers at each position of a sequence of vectors; None for tokens and images.

    Raises:
        ValueError: Sizes that do not fit each other.
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    mlp_width: int
    context_length: int
    causal: bool
    vocab_size: int | None = None
    num_classes: int | None = None
    image_size: int | None = None
    patch_size: int = 16
    channels: int = 3
    rope: bool = False
    short_conv: int = 0
    dropout: float = 0.0
    head_width: int = 0
    towers: int = 1
    input_dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "kv_heads", "width", "mlp_width", "patch_size", "short_conv", "head_width"):
            smallest = 0 if name in ("short_conv", "head_width") else 1
            if (value := getattr(self, name)) < smallest:
                raise ValueError(f"{name} is {value}; allowed: {smallest} or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; allowed: from 0 to below 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.rope and self.head_dim % 2:
            raise ValueError(f"rope needs an even head dim; that of width {self.width} / heads {self.heads} is odd")
        if self.image_size is not None and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.short_conv and not self.causal:
            raise ValueError("short_conv is causal; it cannot be used in an encoder")
        if self.towers not in (1, 2):
            raise ValueError(f"towers is {self.towers}; allowed: 1 or 2")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of an image's patches; None for tokens and vectors."""
        if self.image_size is None:
            return None
        side = self.image_size // self.patch_size
        return side, side


def patches_and_class_token(config: TransformerConfig) -> TransformerConfig:
    """The same sizes; for images, with the context length of their patches and the class token."""
    if config.image_size is None:
        return config
    return replace(config, context_length=(config.image_size // config.patch_size) ** 2 + 1)
