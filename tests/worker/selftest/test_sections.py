"""Each section finds what it is there to find, on devices that are staged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from protocol.batching import BatchRules
from protocol.messages import ModelSource
from protocol.selftest import GIVEN
from tests.worker.selftest.recorder import Recorder
from worker.engine.sampler import Row, Sample, sample_tokens
from worker.selftest.answers import NEAR_TIE_GAP, NEAR_TIE_GAP_16, read_stored
from worker.selftest.measurement import Section
from worker.selftest.sections import correctness, kernels, sampling
from worker.selftest.sections.correctness import Trial, Try
from worker.selftest.subject import Subject, load_subject

LONG_S = 600.0


@pytest.mark.parametrize(
    ("architecture", "library", "macos", "verdict"),
    [
        ("applegpu_g16s", b"steel_gemm_fused_nn", "15.1", "ok"),
        ("applegpu_g17p", b"steel_gemm_fused_nn", "26.2", "ok"),
        ("applegpu_g17s", b"steel_gemm_fused_nn", "26.2", "failed"),
        ("applegpu_g17s", b"steel_gemm_fused_nax_nn", "26.2", "ok"),
        ("applegpu_g17s", b"steel_gemm_fused_nax_nn", "26.1.1", "failed"),
        ("applegpu_g18p", b"steel_gemm_fused_nn", "27.0", "failed"),
        ("x86_64", None, "", "ok"),
        ("applegpu_g17s", None, "26.2", "skipped"),
    ],
)
def test_a_chip_with_neural_accelerators_needs_their_kernels(
    architecture: str, library: bytes | None, macos: str, verdict: str, tmp_path: Path
) -> None:
    path = tmp_path / "mlx.metallib"
    path.write_bytes(b"MTLB" + (library or b""))
    recorder = Recorder()
    kernels.check_neural(
        recorder.section("kernels", LONG_S),
        architecture=architecture,
        libraries=[] if library is None else [path],
        macos=macos,
    )
    assert recorder.only("neural").verdict == verdict


def test_a_wrong_product_is_found_and_a_right_one_is_not() -> None:
    left, right = mx.ones((9, 8)), mx.ones((4, 8))
    product = left @ right.T
    assert kernels.relative_error(product, left, right) == 0
    product[8, 3] = 0
    assert kernels.relative_error(product, left, right) == 1
    product[8, 3] = mx.array(float("nan"))
    assert kernels.relative_error(product, left, right) == float("inf")


def test_the_products_of_this_device_are_right() -> None:
    assert max(map(kernels.product_error, kernels.ROWS)) < kernels.ERROR_BOUND


class Clock:
    """A clock that the samplers advance."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sampler(self, seconds: float) -> Sample:
        """A sampler that takes so long."""

        def sample(logits: mx.array, rows: Sequence[Row]) -> mx.array:
            self.now_s += seconds
            return sample_tokens(logits, rows)

        return sample

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("compiled_s", "advice"), [(0.5, "pays"), (0.99, "does not pay")])
def test_compiled_sampling_pays_by_its_measured_gain(compiled_s: float, advice: str) -> None:
    clock, recorder = Clock(), Recorder()
    section = Section("sampler", 100.0, recorder.figures.append, clock=clock)
    logits = mx.zeros((2, 64))
    sampling.measure_samplers(section, logits, clock.sampler(1.0), clock.sampler(compiled_s))
    gain = recorder.only("compiled_gain")
    assert gain.value == pytest.approx(1 / compiled_s, abs=0.01)
    assert gain.note.startswith(advice)


def test_rows_in_a_batch_resumed_and_cached_give_the_stored_answers(subject: Subject) -> None:
    recorder = Recorder()
    trial = Trial(recorder.section("correctness", LONG_S), subject)
    answers = read_stored()
    resumed, run = trial.run_batch([Try(answer, 11) for answer in answers])
    assert run.tokens == [one.answer.tokens[11:] for one in resumed]
    cached, run = trial.run_cached([Try(answer) for answer in answers[:2]])
    assert run.tokens == [one.answer.tokens for one in cached]
    assert run.cached_tokens > 0


def test_a_wrong_answer_fails_and_what_there_is_no_time_for_is_skipped(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [answer for answer in read_stored() if answer.kind == "greedy"][:1]
    wrong[0].tokens[3] += 1
    monkeypatch.setattr(correctness, "read_stored", lambda: wrong)
    monkeypatch.setattr(correctness, "BATCHES", (2,))
    monkeypatch.setattr(correctness, "LONG_TOKENS", 64)
    recorder = Recorder()
    correctness.check(recorder.section("correctness", LONG_S), subject)
    assert {figure.verdict for figure in recorder.figures} == {"failed"}
    recorder = Recorder()
    correctness.check(recorder.section("correctness", 0.0), subject)
    assert {figure.verdict for figure in recorder.figures} == {"skipped"}


def test_another_models_answers_are_compared_with_those_of_rows_alone(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correctness, "LONG_TOKENS", 64)
    given = load_subject(ModelSource(GIVEN, str(llama_path)))
    assert given.loaded.rules == BatchRules()
    recorder = Recorder()
    correctness.check(recorder.section("correctness", LONG_S), given)
    verdicts = {(figure.name, figure.at): figure.verdict for figure in recorder.figures}
    assert set(verdicts.values()) == {"ok"}
    ways = {name for name, _ in verdicts}
    assert ways == {"resume", "padding", "prefix", "batch", "alone"}


@pytest.mark.parametrize(
    ("dtype", "bound"), [(mx.float32, NEAR_TIE_GAP), (mx.bfloat16, NEAR_TIE_GAP_16)]
)
def test_only_another_models_16_bit_logits_have_a_larger_bound(
    dtype: mx.Dtype, bound: float, subject: Subject, llama_path: Path
) -> None:
    given = load_subject(ModelSource(GIVEN, str(llama_path)))
    given.model.update(tree_map(lambda array: array.astype(dtype), given.model.parameters()))
    assert correctness.bound_of(given) == bound
    assert correctness.bound_of(subject) == NEAR_TIE_GAP
