"""What a client may make the server hold."""

from dataclasses import dataclass, field

from gemlora.api.shapes import ShapeLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on bodies, and on how long a client may take. Times in seconds."""

    body_bytes: int = 16 << 20
    body_idle_seconds: float = 15
    write_stall_seconds: float = 30
    batch_requests: int = 1000
    shapes: ShapeLimits = field(default_factory=ShapeLimits)
