"""Rows with quantised keys and values: the bytes they take, and what they give in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from protocol.messages import Sampling
from protocol.quantisation import KVBits
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import make_row
from worker.memory.kv_cost import probe
from worker.quantised_kv.model_quantisation import KVQuantisation
from worker.quantised_kv.packing import packing_for

GREEDY = Sampling(seed=0, temperature=0.0)
PROMPTS = [
    [(7 * index + 3 * number) % 250 + 3 for index in range(20 + 9 * number)] for number in range(4)
]
ANSWER_TOKENS = 12
TOP = 20
# A value whose rounding differs may get another code: float32's rounding seldom does.
TOLERANCE = 2e-2
BITS: tuple[KVBits, ...] = (8, 4)
# Of float16's bytes, for a head of 64: the codes, and 32 bits a group.
SHARES = {8: 0.55, 4: 0.32}

Answer = list[tuple[int, dict[int, float]]]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [64, 80, 96, 112, 128, 192, 256])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_packed_values_are_those_of_their_codes(bits: int, width: int, dtype: mx.Dtype) -> None:
    values = mx.random.normal((2, 3, 5, width), key=mx.random.key(width)).astype(dtype)
    packing = packing_for(values, bits)
    assert packing is not None
    words = packing.pack(values)
    kept = packing.unpack(words)
    assert kept.dtype == dtype
    # A group of normal values spans less than ten; half a step, and the rounding of 16 bits.
    step = 10 / (2**bits - 1)
    assert mx.abs(kept.astype(mx.float32) - values.astype(mx.float32)).max().item() < step
    assert words.shape[-1] == packing.words
    if width % 64 == 0:
        assert words.nbytes <= SHARES[bits] * values.size * mx.float16.size
    assert mx.all(packing.unpack(mx.zeros_like(words)) == 0).item()


@pytest.mark.parametrize(
    ("width", "dtype", "is_packed"),
    [
        (0, mx.float32, False),
        (16, mx.float16, False),
        (16, mx.float32, True),
        (16, mx.int32, False),
        (80, mx.bfloat16, True),
    ],
)
def test_only_what_saves_memory_is_packed(width: int, dtype: mx.Dtype, is_packed: bool) -> None:
    assert (packing_for(mx.zeros((1, 1, 1, width), dtype), 8) is not None) == is_packed


@pytest.mark.parametrize("bits", BITS)
def test_rows_in_a_batch_are_those_alone(llama_path: Path, bits: KVBits) -> None:
    alone = [run(make_engine(llama_path, bits), [prompt])[0] for prompt in PROMPTS]
    together = run(make_engine(llama_path, bits), PROMPTS)
    assert all(map(agree, alone, together))


@pytest.mark.parametrize("bits", BITS)
def test_a_cached_prefix_gives_what_a_fresh_prompt_gives(llama_path: Path, bits: KVBits) -> None:
    engine = make_engine(llama_path, bits)
    fresh = run(engine, PROMPTS[:1])
    again = run(engine, PROMPTS[:1])
    assert agree(fresh[0], again[0])


@pytest.mark.parametrize("bits", BITS)
def test_a_row_decoded_alone_is_that_of_a_batch(llama_path: Path, bits: KVBits) -> None:
    batched = run(make_engine(llama_path, bits), PROMPTS[:1])
    lone = run(make_engine(llama_path, bits), PROMPTS[:1], alone=True)
    assert agree(batched[0], lone[0])


def test_answers_are_those_of_quantised_values(llama_path: Path) -> None:
    full, coarse = (run(make_engine(llama_path, bits), PROMPTS[:1])[0] for bits in (0, 4))
    assert difference_of(full[0], coarse[0]) > 0


@pytest.mark.parametrize("bits", BITS)
def test_bytes_are_counted_as_they_are_kept(llama_path: Path, bits: KVBits) -> None:
    model, _ = load_model(llama_path)
    quantisation = KVQuantisation.of(model, bits)
    assert quantisation.layers == quantisation.of_layers > 0
    full, packed = probe(model, 64), probe(model, 64, quantisation)
    read = quantisation.read_token_bytes() * 256
    assert packed.batch_bytes(3, 256) == 3 * packed.batch_bytes(1, 256)
    # The model's heads are of 16 values in float32; they are filled up to 32.
    assert packed.batch_bytes(1, 256) - read == full.batch_bytes(1, 256) * (bits + 1) // 16


def make_engine(path: Path, bits: KVBits) -> Engine:
    """An engine with a prompt cache of its own."""
    model, _ = load_model(path)
    return Engine(
        model,
        max_running=8,
        prefill=PrefillLimits(max_tokens=16),
        prompt_cache=PrefixCache(1 << 28),
        kv_bits=bits,
    )


def run(engine: Engine, prompts: Sequence[list[int]], *, alone: bool = False) -> list[Answer]:
    """The answers to these prompts at once: each token with the likeliest ones of its place."""
    answers: list[Answer] = [[] for _ in prompts]
    for id, prompt in enumerate(prompts):
        engine.insert(id, prompt, ANSWER_TOKENS, make_row(GREEDY, logprobs=TOP), alone=alone)
    while len(engine):
        for token in engine.step():
            assert token.score is not None
            answers[token.id].append((token.token, dict(token.score.top)))
    return answers


def agree(one: Answer, other: Answer) -> bool:
    """Whether the answers are the same up to rounding; a near tie ends the comparison."""
    for ours, theirs in zip(one, other, strict=True):
        if difference_of(ours, theirs) > TOLERANCE:
            return False
        if ours[0] != theirs[0]:
            return abs(ours[1][ours[0]] - ours[1].get(theirs[0], -1e9)) <= 2 * TOLERANCE
    return True


def difference_of(
    ours: tuple[int, dict[int, float]], theirs: tuple[int, dict[int, float]]
) -> float:
    """The largest difference of the log-probabilities of tokens that both have."""
    common = ours[1].keys() & theirs[1].keys()
    assert len(common) > TOP // 2
    return max(abs(ours[1][token] - theirs[1][token]) for token in common)
