"""The architecture of a Gemma checkpoint (generations 1, 2 and 3, text) as plain numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of one layer: angle = position / factor · base^(-2i / head_dim), in fp32."""

    base: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What differs between layers. `window` counts the tokens that a row may see, itself included; None sees all."""

    rope: Rope
    window: int | None


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """Everything that the forward pass needs to know beside the weights."""

    generation: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    norm_epsilon: float
    attention_scale: float
    """Factor on q·k, query_pre_attn_scalar^-0.5."""
    embedding_scale: float
    """sqrt(hidden), already rounded to the checkpoint's dtype."""
    attention_softcap: float | None
    logit_softcap: float | None
    layers: tuple[LayerConfig, ...]

    @property
    def query_size(self) -> int:
        """Outputs of `q_proj`: independent of `hidden` (7B: 16 heads of 256 against hidden 3072)."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Outputs of `k_proj` and of `v_proj`."""
        return self.kv_heads * self.head_dim

    @property
    def post_norms(self) -> bool:
        """Gemma 2 and 3 also normalise the outputs of attention and feed-forward before the residual."""
        return self.generation >= 2

    @property
    def head_norms(self) -> bool:
        """Gemma 3 normalises each query and key head."""
        return self.generation >= 3

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the seven linear modules of every layer."""
        return {
            "q_proj": (self.query_size, self.hidden),
            "k_proj": (self.kv_size, self.hidden),
            "v_proj": (self.kv_size, self.hidden),
            "o_proj": (self.hidden, self.query_size),
            "gate_proj": (self.feed_forward, self.hidden),
            "up_proj": (self.feed_forward, self.hidden),
            "down_proj": (self.hidden, self.feed_forward),
        }
