"""Whether the installed MLX has the kernels for this chip, and whether they are right and fast.

The neural accelerators of the M5 and later (GPU generation 17, phones' 18) need kernels that MLX
has only if it was built for macOS 26.2 (mlx 0.32): a Homebrew bottle of 0.32.0 has none and
prefills up to 3.8 times slower, without a word (rMLX issue 216). MLX uses them from the wheel for
macOS 26.0 too, which does not have what they need (mlx issue 4525), and one compiler has made
kernels that are wrong for more than 8 rows (mlx pull request 3593).
"""

from __future__ import annotations

import mmap
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from worker.selftest.measurement import Section, within

ROWS = (1, 2, 8, 9, 16, 33, 64)
INNER, COLUMNS = 512, 256
# What 16-bit numbers round to; the largest error over the largest result.
ERROR_BOUND = 0.02
GROUP, BITS = 64, 4
SPEED_SIZE = 1024
GIGA = 1e9
HEAD_DIMS = (64, 128, 256)
HEADS, QUERIES, KEYS = 8, 256, 1024

ARCHITECTURE = re.compile(r"applegpu_g(\d+)([a-z]?)")
NEURAL_GENERATION, PHONE_GENERATION = 17, 18
NEURAL_KERNEL = b"steel_gemm_fused_nax"
NEURAL_MACOS = (26, 2)
LIBRARY = "mlx.metallib"
FOLDERS = (Path("/opt/homebrew/opt/mlx/lib"), Path(sys.prefix) / "lib")


def check(section: Section) -> None:
    """All checks of the kernels."""
    check_neural(
        section,
        architecture=str(mx.device_info().get("architecture", "")),
        libraries=find_libraries(),
        macos=platform.mac_ver()[0],
    )
    for rows, _ in section.within_time("product_error", ROWS):
        error = product_error(rows)
        verdict = within(error <= ERROR_BOUND)
        section.report("product_error", float(f"{error:.2g}"), at=rows, verdict=verdict)
    measure_speed(section)
    for head_dim, _ in section.within_time("attention_memory", HEAD_DIMS):
        section.report("attention_memory", round(attention_memory(head_dim), 2), at=head_dim)


# ---------------------------------------------------------------- neural accelerators


def check_neural(section: Section, *, architecture: str, libraries: list[Path], macos: str) -> None:
    """Whether MLX has the kernels for the neural accelerators of this chip, if it has some."""
    if not has_neural_accelerators(architecture):
        section.report("neural", None, verdict="ok", note="this chip has no neural accelerators")
    elif not libraries:
        section.skip("neural", f"{LIBRARY} was not found")
    elif not any(map(has_neural_kernels, libraries)):
        note = "the installed MLX has no kernels for this chip's neural accelerators: prefill is "
        note += "up to 3.8 times slower; install the wheel of PyPI on macOS 26.2 or later"
        section.report("neural", value=False, verdict="failed", note=note)
    elif version_of(macos) < NEURAL_MACOS:
        note = f"macOS {macos} is too old for the kernels that MLX uses here: update to 26.2"
        section.report("neural", value=True, verdict="failed", note=note)
    else:
        section.report("neural", value=True, verdict="ok")


def has_neural_accelerators(architecture: str) -> bool:
    """By MLX's name of the GPU, such as applegpu_g17s."""
    found = ARCHITECTURE.fullmatch(architecture)
    if found is None:
        return False
    least = PHONE_GENERATION if found[2] == "p" else NEURAL_GENERATION
    return int(found[1]) >= least


def find_libraries() -> list[Path]:
    """The libraries of kernels that MLX may load."""
    package = Path(mx.__file__).parent
    places = [package / "lib", package, *FOLDERS]
    return [place / LIBRARY for place in places if (place / LIBRARY).is_file()][:1]


def has_neural_kernels(library: Path) -> bool:
    """Whether the library names one of these kernels."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(NEURAL_KERNEL) >= 0


def version_of(text: str) -> tuple[int, ...]:
    """A version as numbers."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


# ---------------------------------------------------------------- products and attention


def product_error(rows: int) -> float:
    """The largest relative error of products with this many rows, against NumPy's in 64 bits."""
    generator = np.random.default_rng(rows)
    left = generator.standard_normal((rows, INNER)).astype(np.float32)
    right = generator.standard_normal((COLUMNS, INNER)).astype(np.float32)
    return max(error for error in product_errors(mx.array(left), mx.array(right)))


def product_errors(left: mx.array, right: mx.array) -> Iterator[float]:
    """The errors for each type of number, and for quantised weights."""
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        a, b = left.astype(dtype), right.astype(dtype)
        yield relative_error(a @ b.T, a, b)
    weights, scales, biases = mx.quantize(right, group_size=GROUP, bits=BITS)
    product = mx.quantized_matmul(left, weights, scales, biases, group_size=GROUP, bits=BITS)
    dequantized = mx.dequantize(weights, scales, biases, group_size=GROUP, bits=BITS)
    yield relative_error(product, left, dequantized)


def relative_error(product: mx.array, left: mx.array, right: mx.array) -> float:
    """The largest error over the largest result; NaN is infinite."""
    expected = as_doubles(left) @ as_doubles(right).T
    error = float(np.abs(as_doubles(product) - expected).max() / np.abs(expected).max())
    return error if error == error else float("inf")


def as_doubles(array: mx.array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The numbers on the host."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def measure_speed(section: Section) -> None:
    """The speed of a large product; in 16 bits only on a GPU, whose format it is."""
    dtypes = {32: mx.float32, 16: mx.bfloat16} if mx.metal.is_available() else {32: mx.float32}
    for bits, dtype in dtypes.items():
        if not section.left_s:
            section.skip("product_gflops", at=bits)
            continue
        square = mx.random.normal((SPEED_SIZE, SPEED_SIZE), key=mx.random.key(0)).astype(dtype)
        mx.eval(square)
        seconds = section.time_s(lambda a=square: mx.eval(a @ a), section.left_s / 4, 10)  # type: ignore[misc]
        gflops = 2 * SPEED_SIZE**3 / seconds / GIGA
        section.report("product_gflops", round(gflops, 1), "GFLOP/s", at=bits)


def attention_memory(head_dim: int) -> float:
    """The memory that attention takes at its peak, over that of its scores."""
    dtype = mx.float16 if mx.metal.is_available() else mx.float32
    queries = mx.zeros((1, HEADS, QUERIES, head_dim), dtype)
    keys = mx.zeros((1, HEADS, KEYS, head_dim), dtype)
    mx.eval(queries, keys)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    result = mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=1.0)
    mx.eval(result)
    used = mx.get_peak_memory() - before - result.nbytes
    return used / (HEADS * QUERIES * KEYS * dtype.size)
