"""OpenVINO GenAI: the engine for CPUs. Continuous batching with a prefix cache; reads GGUF files as they are."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from reclm.errors import Damaged
from reclm.llm.chat import Chat, Generation, SamplingParams
from reclm.llm.engines import Count, LocalGenerator, Precision
from reclm.llm.models import LanguageModel, half_copy

# without its telemetry package OpenVINO sends no usage report when it is imported
_TELEMETRY = "openvino_telemetry"
_before = sys.modules.get(_TELEMETRY)
sys.modules[_TELEMETRY] = None  # pyright: ignore[reportArgumentType]
try:
    import openvino as ov
    import openvino_genai as genai
finally:
    del sys.modules[_TELEMETRY]
    if _before is not None:
        sys.modules[_TELEMETRY] = _before

_RUNNING = genai.GenerationStatus.RUNNING


class OpenVINOGenerator(LocalGenerator):
    """Runs a GGUF file or an OpenVINO folder on the CPU.

    Args:
        precision: of weights, activations and KV cache; ``auto`` is bf16 where the processor computes in it, else f32.
            In f32 a text does not depend on what is generated beside it.
        in_flight: most prompts worked on at once.
        cache_gb: size of the KV cache in GB.
        batched_tokens: most tokens in one forward pass.
    """

    refuses = ("safetensors", "transformers")
    neutral = frozenset({"in_flight", "cache_gb", "batched_tokens"})

    def __init__(
        self,
        model: LanguageModel,
        precision: Precision = "auto",
        in_flight: Count = 64,
        cache_gb: Count = 2,
        batched_tokens: Count = 256,
    ) -> None:
        super().__init__(model)
        self.in_flight = in_flight
        if precision == "auto":
            bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bf16" if bf16 else "f32"
        self.precision = precision
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = cache_gb
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = batched_tokens
        scheduler.max_num_seqs = in_flight
        properties = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            # quantising activations on the fly changes texts, and is slower without VNNI
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        path = half_copy(model) if model.format == "gguf" else model.path
        try:
            self._pipeline = genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", properties)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            message = f"OpenVINO cannot read {model.path}: {reason}; try --engine transformers"
            raise Damaged(message, where=model.path, remedy="--engine transformers") from error

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat, each once and as soon as it is done; at most ``in_flight`` are begun and not done."""
        groups, too_long = self.encode(chats, params)
        yield from too_long
        prompts = {key: ids for group in groups for key, ids in group.items()}
        config = self._config(params)
        waiting = enumerate(prompts.items())
        running: dict[str, Any] = {}
        # the first one alone, so that what all prompts begin with is in the prefix cache when the others come
        room = 1
        try:
            while True:
                for number, (key, ids) in waiting:
                    tokens = ov.Tensor(np.array([ids], dtype=np.int64))
                    running[key] = self._pipeline.add_request(number, tokens, config)
                    if len(running) >= room:
                        break
                if not running:
                    return
                self._pipeline.step()
                statuses = {key: handle.get_status() for key, handle in running.items()}
                for key in [key for key, status in statuses.items() if status != _RUNNING]:
                    yield self._read(key, chats[key], prompts[key], running.pop(key), params)
                if room == 1 and not any(handle.can_read() for handle in running.values()):
                    continue
                room = self.in_flight
        finally:
            # abandoned half-way: the next call begins with an empty pipeline
            for handle in running.values():
                handle.cancel()
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()

    def _read(
        self, key: str, chat: Chat, prompt: list[int], handle: Any, params: SamplingParams
    ) -> Generation:
        if handle.get_status() == genai.GenerationStatus.IGNORED:
            fault = f"the prompt of {key!r} ({len(prompt)} tokens) does not fit the KV cache; raise cache_gb"
            return Generation.failed(key, fault)
        # where the answer begins with a stop string, nothing is left to read
        answers = handle.read_all()
        new = list(answers[0].generated_ids) if answers else []
        ended = not answers or answers[0].finish_reason == genai.GenerationFinishReason.STOP
        return self.read(key, chat, prompt, new, ended, params)

    def _config(self, params: SamplingParams) -> genai.GenerationConfig:
        config = genai.GenerationConfig()
        config.max_new_tokens = params.max_new_tokens
        config.stop_token_ids = set(self.end_ids)
        config.set_eos_token_id(min(self.end_ids))
        config.stop_strings = set(params.stop)
        config.repetition_penalty = params.repetition_penalty
        config.presence_penalty = params.presence_penalty
        if params.temperature > 0:
            config.do_sample = True
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.rng_seed = params.seed
        if params.pattern is not None:
            config.structured_output_config = genai.StructuredOutputConfig(regex=params.pattern)
        return config
