"""gemlora serves a Gemma base model with any number of LoRA adapters behind the Workers AI wire protocol."""

__version__ = "0.1.0"
