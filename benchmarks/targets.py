"""What the figures are held against."""

from dataclasses import dataclass

from benchmarks.rounds import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Bounds on a figure's value."""

    meaning: str
    at_most: float | None = None
    at_least: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        bounds = (("≥", self.at_least), ("≤", self.at_most), ("<", self.below))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def met(self, figure: Figure) -> bool:
        """Whether the value is within the bounds."""
        return (
            (self.at_most is None or figure.value <= self.at_most)
            and (self.at_least is None or figure.value >= self.at_least)
            and (self.below is None or figure.value < self.below)
        )


GPU_ROWS = (512, 1024, 2048, 4096)
"""Sessions of the frames that a GPU is given."""
AROUND_ROWS = (256, *GPU_ROWS)
_CPU = "server CPU per step, two streams of 256, over bare ONNX Runtime's"
_GRAPH = "CPU per step of the graph Cellar compiles, without a server, over the same"
_LEVELS = {
    "tokens": "tokens",
    "tls": "TLS",
    "tls_tokens": "TLS and tokens",
    "mutual_tls_tokens": "mutual TLS and tokens",
}
_CASES = {
    "unary": "64 unary callers",
    "streams": "256 streams of one session",
    "frames": "two streams of 256",
}
_SECURITY = {
    f"security_{level}_{case}_cpu_ratio": Target(
        meaning=f"CPU per step, {callers}, with {asked} over without any"
    )
    for case, callers in _CASES.items()
    for level, asked in _LEVELS.items()
}
_TIERS = {
    "host": "the others in host memory",
    "store": "most of them in a store",
}
TARGETS = {
    **_SECURITY,
    "frames_cpu_ratio_2x512": Target(meaning=_CPU, at_most=0.9),
    "frames_cpu_ratio_2x128": Target(meaning=_CPU, at_most=1.2),
    "graph_cpu_ratio_2x512": Target(meaning=_GRAPH),
    "graph_cpu_ratio_2x128": Target(meaning=_GRAPH),
    "int8_cpu_ratio_2x512": Target(meaning=f"{_CPU} (fp32)", at_most=0.4),
    "int8_nats_cost": Target(meaning="nats per character lost to int8", at_most=0.01),
    "streams_echo_ratio": Target(meaning="messages/s of 256 streams over the echo's", at_least=0.8),
    "streams_tuned_echo_ratio": Target(
        meaning="the same over an echo whose gRPC is set up as Cellar sets up its own"
    ),
    "lone_step_added_ms": Target(
        meaning="p50 of a lone step less the echo's and the model's, ms", at_most=0.15
    ),
    "unary_echo_ratio": Target(meaning="messages/s of 64 unary callers over the echo's"),
    "lone_unary_added_cpu_us": Target(
        meaning="server CPU of a lone unary step less the echo's per message, µs"
    ),
    "million_sessions_cost_ratio": Target(
        meaning="CPU per step with 1,000,000 sessions open over 1,000", at_most=1.15
    ),
    "million_sessions_memory_ratio": Target(
        meaning="memory per session over its state's bytes", at_most=1.3
    ),
    "million_sessions_bare_cost_ratio": Target(
        meaning="the same of bare ONNX Runtime: what the memory itself costs"
    ),
    "rewind_1000_ms": Target(meaning="a rewind of one session by 1,000 steps, in memory, ms"),
    "rewind_1000_durable_ms": Target(meaning="the same with a store, until it is durable, ms"),
    **{
        f"tiers_{tier}_{key}": Target(meaning=f"{meaning}, {words}", at_most=at_most)
        for tier, words in _TIERS.items()
        for key, meaning, at_most in (
            ("hit_cpu_us", "CPU per step where all have rows, µs", None),
            ("miss_cpu_us", "CPU per step of a session that is out, µs", None),
            ("misses_per_s", "sessions that come back in a second", None),
            ("hot_ratio", "p50 of a steady caller beside random ones over alone", 3.0),
            ("hot_resident_ratio", "the same beside frames of sessions that stay", None),
        )
    },
    **{
        f"around_{rows}_cpu_us": Target(
            meaning=f"CPU per step around the model, two streams of {rows}, 1x16, µs"
        )
        for rows in AROUND_ROWS
    },
    **{
        f"gpu_frames_{rows}_steps_per_s": Target(
            meaning=f"steps/s on a GPU, two streams of {rows}, 2x1024",
            at_least=1_000_000 if rows == GPU_ROWS[-1] else None,
        )
        for rows in GPU_ROWS
    },
    "gpu_generate_steps_per_s": Target(meaning="generated steps/s on a GPU, 256 at once, 2x1024"),
    "gpu_cpu_ratio": Target(meaning="steps/s on a GPU, two streams of 512, over the CPU's, 2x1024"),
    "upgrade_10000_ms": Target(
        meaning="an upgrade of one session that has read 10,000 steps, in memory, ms"
    ),
    "upgrade_10000_durable_ms": Target(meaning="the same with a store, until it is durable, ms"),
    "generate_ratio": Target(
        meaning="generated steps/s, 256 at once, over bare ONNX Runtime's", at_least=0.8
    ),
    "generate_ratio_2x512": Target(meaning="the same on 2x512"),
    "forecast_path_steps_per_s": Target(meaning="path-steps/s of one forecast after the other"),
    "chunk_p99_ratio": Target(
        meaning="p99 of single steps beside 4,000-step chunks over alone", at_most=2.0
    ),
    "durability_interval_cpu_ratio": Target(
        meaning="CPU per step, two streams of 256, --durability interval over no store",
        at_most=1.04,
    ),
    "durability_commit_cpu_ratio": Target(meaning="the same, --durability commit", at_most=1.08),
    "journal_bytes_per_step": Target(
        meaning="bytes of the journal per step of a token, two streams of 256", at_most=24.0
    ),
    "durability_sync_p50_ms": Target(meaning="p50 of a page and its sync, without a server, ms"),
    "durability_sync_p99_ms": Target(meaning="p99 of the same, ms"),
    "durability_added_p50_ms": Target(
        meaning="p50 of a lone stream's step under commit less without a store, ms"
    ),
    "durability_added_p99_ms": Target(meaning="p99 of the same, ms"),
    "durability_checkpoints_added_p50_ms": Target(
        meaning="p50 of the same beside frames of others and their checkpoints, ms"
    ),
    "durability_checkpoints_added_p99_ms": Target(meaning="p99 of the same, ms"),
    "journal_limit_ratio": Target(
        meaning="most bytes that the journal held over --journal-bytes, beside an idle session",
        at_most=1.5,
    ),
    "triton_steps_ratio": Target(
        meaning="steps/s, frames of 64, over Triton's at 64 sequences", at_least=3.0
    ),
    "triton_cpu_ratio": Target(
        meaning="server CPU per step, frames of 64, over Triton's at 64 sequences", at_most=0.1
    ),
    "triton_streams_steps_ratio": Target(
        meaning="steps/s, 64 streams of one session, over Triton's", at_least=1.0
    ),
    "triton_streams_cpu_ratio": Target(
        meaning="server CPU per step, 64 streams of one session, over Triton's", at_most=1.0
    ),
    "triton_perf_analyzer_ratio": Target(
        meaning="Triton's steps/s with our callers, over those with NVIDIA's perf_analyzer"
    ),
    "shakespeare_cold256_3min": Target(
        meaning="nats per character, tiny Shakespeare, 3 minutes of training; mean of the seeds",
        below=1.4697,
    ),
    "onnx_gap_nats": Target(
        meaning="largest difference of torch and the served ONNX, whole or step by step, in nats",
        at_most=1e-4,
    ),
    "training_throughput_ratio": Target(
        meaning="characters per second of a run over a bare loop of the same torch module",
        at_least=0.95,
    ),
    "exchange_rate_mwql": Target(
        meaning="mean_wQuantileLoss, exchange_rate, 5 windows of 30 days; mean of the seeds",
        at_most=0.0069,
    ),
    "exchange_rate_cover80": Target(
        meaning="share of truths within the 80 % interval; mean of the seeds",
        at_least=0.78,
        at_most=0.82,
    ),
    "japanese_vowels_accuracy": Target(
        meaning="test accuracy on Japanese Vowels; mean of the seeds", at_least=0.98
    ),
    "names_top1": Target(meaning="names: accuracy of the language, no name in both parts"),
    "names_top3": Target(meaning="names: the language is among the first three"),
    "mrf_walk_ratio": Target(
        meaning="MRF daily closes: quantile loss over the best baseline's; below 1 beats it"
    ),
}

__all__ = ["AROUND_ROWS", "GPU_ROWS", "TARGETS", "Target"]
