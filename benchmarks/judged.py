"""The figures that the project is judged by: where each stands in the results, and what is wanted of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """One figure of one row. `figure` is a path into the result file, its parts separated by slashes."""

    row: str
    what: str
    file: str
    figure: str
    bound: Literal["≥", "≤"]
    goal: float

    def measured(self, results: Mapping[str, Mapping[str, Any]]) -> float | None:
        """The figure, None if it was not measured."""
        found: Any = results.get(self.file)
        for part in self.figure.split("/"):
            if not isinstance(found, Mapping) or part not in found:
                return None
            found = found[part]
        return float(found)

    def reached(self, measured: float) -> bool:
        """Whether it is good enough."""
        return measured >= self.goal if self.bound == "≥" else measured <= self.goal


LLAMA_CPP, PEFT, VLLM = "llama.cpp", "transformers + PEFT", "vLLM"

GOALS = (
    Goal("a", "prefill of 512 tokens ÷ llama.cpp's", "offline", "figures/prefill_over_llama_cpp", "≥", 3),
    Goal("a", "its share of the int8 peak", "offline", "figures/prefill_share_of_int8", "≥", 0.45),
    Goal("b", "decoding at batch 1 ÷ llama.cpp's", "offline", "figures/decode_1_over_llama_cpp", "≥", 1.2),
    Goal("b", "at batch 8", "offline", "figures/decode_8_over_llama_cpp", "≥", 3),
    Goal("b", "at batch 16", "offline", "figures/decode_16_over_llama_cpp", "≥", 3.5),
    Goal("b", "at batch 32", "offline", "figures/decode_32_over_llama_cpp", "≥", 3.5),
    Goal("b", "batch 1's share of the bandwidth", "offline", "figures/decode_1_share_of_bandwidth", "≥", 0.75),
    *(
        Goal(
            "c",
            f"16 clients, 16 adapters, tokens/s ÷ {peer}'s",
            "compare_vllm" if peer == VLLM else "compare",
            f"figures/different_16_tokens_per_second_over_{peer}",
            "≥",
            goal,
        )
        for peer, goal in ((LLAMA_CPP, 12), (VLLM, 6), (PEFT, 12))
    ),
    Goal("d", "R1's share of its roofline, 16 adapters", "adapter_mix", "figures/r1_share_of_roofline", "≥", 0.9),
    Goal("e", "R2, 2,000 registered adapters (zipf) ÷ 5", "adapter_mix", "figures/r2_2000", "≥", 0.95),
    Goal("f", "R6, first token cold ÷ warm, median", "adapters", "prompt_tokens/128/cold_to_warm", "≤", 1.1),
    Goal("g", "R7, working set 4 × the cache ÷ 1 ×", "adapter_mix", "figures/r7", "≥", 0.8),
    Goal(
        "h", "short prompt among 8 long ones ÷ alone, p99", "online", "figures/short_among_long_p99_over_alone", "≤", 3
    ),
    Goal("i", "cold process → first token, seconds", "compare", "figures/gemlora.cold_start_seconds", "≤", 1.5),
    Goal("j", "peak memory ÷ llama.cpp's", "compare", f"figures/peak_pss_bytes_over_{LLAMA_CPP}", "≤", 1.3),
    Goal("k", "KL to the fp32 model ÷ llama.cpp's", "quality", "ratio", "≤", 1.05),
    *(
        goal
        for quantize in ("int8", "int4")
        for goal in (
            Goal(
                "l",
                f"7B shape, {quantize}: share of the bandwidth at batch 1",
                "large_model",
                f"figures/{quantize}.decode_1_share_of_bandwidth",
                "≥",
                0.8,
            ),
            Goal(
                "l",
                f"7B shape, {quantize}: batch 16 ÷ llama.cpp's",
                "large_model",
                f"figures/{quantize}.decode_16_over_llama_cpp",
                "≥",
                3,
            ),
        )
    ),
)
