"""The fused attention of a GPU sees what the rows describe, and equals the parts, forward and backward.

On a CPU torch computes it unfused, and its own backward pass is there but refused by a check; the tests lift that check
to hold mask, padding and layout against the definition. The kernels themselves are held by the tests marked `gpu`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from tests.forest.trees import for_all, forests, forms, row, seen_by_rows
from weft.forest import attention, flex, logprobs
from weft.forest.build import Forest, plant
from weft.forest.logprobs import learned_logprobs
from weft.models import lora
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.lora import LoraConfig
from weft.records import Tokens

CPU = torch.device("cpu")
HEADS = st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (3, 1)])
BLOCK = 16
"""Small, so that small trees have blocks of every kind."""
TREES = {
    "several prefixes": [row(*[n] * 5, 10 + m, 20 + m) for n in range(3) for m in range(4)],
    "prefix of a prefix": [row(1, 2, 3, *[4] * n, 50 + n) for n in range(12)],
    "single tokens": [row(*range(20), 30 + n) for n in range(9)],
    "nothing shared": [row(*range(30 * n, 30 * n + 3 + 7 * n)) for n in range(5)],
}


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs a GPU for which torch's kernels are made."""
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(absent(test))


@pytest.fixture(autouse=True)
def unfused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a compiler torch computes FlexAttention by its definition, gradients included."""
    if request.node.get_closest_marker("gpu"):
        return
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)


def _states(forest: Forest, heads: tuple[int, int], width: int, seed: int = 0) -> list[Tensor]:
    """q, k, v and a gradient of the output, float32."""
    generator = torch.Generator().manual_seed(seed)
    size = len(forest.ids)
    return [torch.randn(size, n, width, generator=generator) for n in (heads[0], heads[1], heads[1], heads[0])]


def _with_gradients(attend: Callable[..., Tensor], states: list[Tensor], asking: np.ndarray) -> list[Tensor]:
    """Output of the asking places, then the gradients by q, k and v for the last of `states` as gradient."""
    q, k, v = (x.detach().clone().requires_grad_() for x in states[:3])
    rows = torch.from_numpy(asking).to(q.device)
    out = attend(q[rows], k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), states[3][rows])]


def _fused(states: list[Tensor], forest: Forest, asking: np.ndarray, block: int = BLOCK) -> list[Tensor]:
    seen = flex.mask(forest, asking, states[0].device, block)
    return _with_gradients(partial(flex.attend, seen=seen), states, asking)


def _dense(states: list[Tensor], forest: Forest, asking: np.ndarray) -> list[Tensor]:
    """The same from the rows themselves, in float64, without any tree."""
    device = states[0].device
    seen = torch.from_numpy(seen_by_rows(forest.places, len(forest.ids))[asking]).to(device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide_k, wide_v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, wide_k) * q.shape[-1] ** -0.5
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), wide_v)

    return _with_gradients(attend, [x.double() for x in states], asking)


def _all(forest: Forest) -> np.ndarray:
    return np.arange(len(forest.ids))


def _off(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the norm of what was expected."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-6))


# ---- who sees whom ---------------------------------------------------------------------------------------------------


@forms(short=20, long=400)
def test_the_mask_is_what_the_rows_describe_and_padding_sees_nothing(examples: int) -> None:
    @for_all(examples, rows=forests(longest=30), longest=st.sampled_from([1, 7, 256]), choice=st.randoms())
    def holds(rows: list[Tokens], longest: int, choice) -> None:
        forest = plant(rows, 1, longest)
        tokens = len(forest.ids)
        asking = np.array(sorted(choice.sample(range(tokens), choice.randint(1, tokens))))
        expected, seen = _by_rows(forest, asking), flex.mask(forest, asking, CPU, BLOCK)
        size = len(expected)
        assert seen.shape == (1, 1, size, size) and size % BLOCK == 0
        places = torch.arange(size)
        found = seen.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None])
        assert (found.numpy() == expected).all()


@forms(short=20, long=400)
def test_a_block_is_left_out_where_nothing_is_seen_and_whole_where_all_is(examples: int) -> None:
    @for_all(examples, rows=forests(longest=40), longest=st.sampled_from([1, 256]), choice=st.randoms())
    def holds(rows: list[Tokens], longest: int, choice) -> None:
        forest = plant(rows, 1, longest)
        tokens = len(forest.ids)
        asking = np.array(sorted(choice.sample(range(tokens), choice.randint(1, tokens))))
        seen = flex.mask(forest, asking, CPU, BLOCK)
        blocks = seen.shape[-1] // BLOCK
        pairs = _by_rows(forest, asking).reshape(blocks, BLOCK, blocks, BLOCK).sum((1, 3))
        assert (_chosen(seen.kv_num_blocks, seen.kv_indices) == ((pairs > 0) & (pairs < BLOCK**2))).all()
        assert (_chosen(seen.full_kv_num_blocks, seen.full_kv_indices) == (pairs == BLOCK**2)).all()


def test_the_blocks_are_those_that_torch_finds_by_looking_at_every_pair() -> None:
    forest = plant([row(*range(70), *[100 + n] * 40) for n in range(4)], 1)
    seen = flex.mask(forest, _all(forest), CPU, BLOCK)
    size = seen.shape[-1]
    theirs = torch_flex.create_block_mask(seen.mask_mod, 1, 1, size, size, "cpu", BLOCK)
    for part in ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices"):
        for name in (part, f"full_{part}"):
            ours, expected = getattr(seen, name), getattr(theirs, name)
            assert ours.dtype == expected.dtype and ours.shape == expected.shape
            assert (ours == expected).all(), name
    assert seen.full_kv_num_blocks.sum() > 0  # type: ignore[union-attr]
    assert seen.sparsity() > 40


def test_every_forest_has_two_blocks_or_more_and_the_asking_are_padded_to_its_size() -> None:
    forest = plant([row(1, 2, 3), row(1, 2, 4)], 1)
    assert flex.mask(forest, np.array([1]), CPU).shape == (1, 1, 2 * flex.BLOCK, 2 * flex.BLOCK)
    long = plant([row(*range(2 * flex.BLOCK + 1))])
    assert flex.mask(long, np.array([1]), CPU).shape[-1] == 3 * flex.BLOCK


def _by_rows(forest: Forest, asking: np.ndarray) -> np.ndarray:
    """(S, S) who sees whom, told from the rows alone and padded."""
    tokens = len(forest.ids)
    size = max(2, -(-tokens // BLOCK)) * BLOCK
    expected = np.zeros((size, size), bool)
    expected[: len(asking), :tokens] = seen_by_rows(forest.places, tokens)[asking]
    return expected


def _chosen(counts: Any, numbers: Any) -> np.ndarray:
    """(blocks, blocks) true where a block of keys is listed for a block of queries."""
    counts, numbers = counts[0, 0].numpy(), numbers[0, 0].numpy()
    found = np.zeros(numbers.shape, bool)
    for which, count in enumerate(counts):
        found[which, numbers[which, :count]] = True
    return found


# ---- output and gradients, unfused on a CPU --------------------------------------------------------------------------


@forms(short=8, long=100)
def test_output_and_gradients_are_those_of_the_definition(examples: int) -> None:
    widths = st.sampled_from([16, 32, 64, 128])

    @for_all(examples, rows=forests(), heads=HEADS, width=widths, longest=st.sampled_from([1, 256]), some=st.randoms())
    def holds(rows: list[Tokens], heads: tuple[int, int], width: int, longest: int, some) -> None:
        forest = plant(rows, 1, longest)
        tokens = len(forest.ids)
        asking = np.array(sorted(some.sample(range(tokens), some.randint(1, tokens))))
        states = _states(forest, heads, width)
        for ours, theirs in zip(_fused(states, forest, asking), _dense(states, forest, asking), strict=True):
            assert ours.shape == theirs.shape
            assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tree", TREES)
def test_each_kind_of_tree_gives_what_the_parts_give(tree: str) -> None:
    forest = plant(TREES[tree], 1)
    states = _states(forest, (4, 2), 16)
    parts = partial(attention.attend, parts=attention.plan(forest, _all(forest), CPU))
    theirs = _with_gradients(parts, states, _all(forest))
    for one, other in zip(_fused(states, forest, _all(forest)), theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_one_compilation_serves_forests_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    kernel = torch.compile(torch_flex.flex_attention, dynamic=True, fullgraph=True, backend=count)
    monkeypatch.setattr(flex, "_kernel", lambda kind: kernel)
    for size in (300, 500, 140, 900, 260, 384):
        _equal_output(plant([row(*range(size // 2), *[1000 + n] * (size // 4)) for n in range(2)]))
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_traced_by_the_compiler_once_for_all_sizes(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    kernel = torch.compile(torch_flex.flex_attention, dynamic=True, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(flex, "_kernel", lambda kind: kernel)
    model, learning = _model(CPU)
    traced = []
    for size in (300, 600, 150):
        rows = _three_rows(size)
        model.recompute = False
        by_parts = _learned(model, learning, rows)
        with monkeypatch.context() as taken:
            taken.setattr(flex, "usable", lambda device, width: True)
            model.recompute = recompute
            fused = _learned(model, learning, rows)
        assert max(_off(*pair) for pair in zip(fused, by_parts, strict=True)) < 1e-5
        traced.append(counters["stats"]["unique_graphs"])
    assert traced[0] > 0 and traced[1:] == traced[:1] * 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU through g++")
def test_what_torch_compiles_for_a_cpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = torch.compile(torch_flex.flex_attention, dynamic=True, fullgraph=True)
    monkeypatch.setattr(flex, "_kernel", lambda kind: kernel)
    for tree in TREES.values():
        _equal_output(plant(tree, 1))


@torch.no_grad()
def _equal_output(forest: Forest) -> None:
    q, k, v, _ = _states(forest, (4, 2), 16)
    ours = flex.attend(q, k, v, flex.mask(forest, _all(forest), CPU))
    theirs = attention.attend(q, k, v, attention.plan(forest, _all(forest), CPU))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_size_of_blocks_changes_nothing() -> None:
    forest = plant(TREES["several prefixes"], 1)
    states = _states(forest, (2, 1), 16)
    small, large = (_fused(states, forest, _all(forest), block) for block in (BLOCK, flex.BLOCK))
    for one, other in zip(small, large, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


# ---- when it is taken ------------------------------------------------------------------------------------------------


def test_a_cpu_a_narrow_head_and_a_gpu_without_triton_or_too_old_take_the_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: dict[str, Any] = {"triton": object(), "capability": (8, 0)}
    monkeypatch.setattr(flex, "find_spec", lambda name: known[name])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: known["capability"])
    usable = flex.usable.__wrapped__
    cuda = torch.device("cuda", 0)
    assert usable(cuda, 64) and usable(cuda, 16)
    assert not usable(CPU, 64) and not usable(cuda, 8)
    known["capability"] = (7, 5)
    assert not usable(cuda, 64)
    known |= {"capability": (9, 0), "triton": None}
    assert not usable(cuda, 64)


def test_where_it_is_taken_a_model_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "plant", partial(plant, min_saved=1))
    model, learning = _model(CPU)
    rows = TREES["several prefixes"] + [row(*range(1, 40), learn=9)]
    by_parts = _learned(model, learning, rows)
    met = []
    monkeypatch.setattr(flex, "usable", lambda device, width: not met.append(width))
    fused = _learned(model, learning, rows)
    assert met == [16, 16]
    for one, other in zip(fused, by_parts, strict=True):
        assert other.abs().max() > 0
        assert _off(one, other) < 1e-5


# ---- the kernels themselves ------------------------------------------------------------------------------------------

WIDE = {
    "two stems": [row(*[n] * 200, *range(10 * m, 10 * m + 90)) for n in range(2) for m in range(4)],
    "prefix of a prefix": [row(*range(150), *[500] * 20 * n, 600 + n) for n in range(8)],
    "nothing shared": [row(*range(400 * n, 400 * n + 70 + 50 * n)) for n in range(5)],
    "smaller than a block": TREES["single tokens"],
}
"""Trees over several blocks of the kernel's own size."""


@on_gpu
@pytest.mark.parametrize("tree", WIDE)
@pytest.mark.parametrize("width", [16, 64, 96, 128])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_float32_kernels_give_output_and_gradients_of_the_definition(
    tree: str, width: int, heads: tuple[int, int]
) -> None:
    forest = plant(WIDE[tree], 1)
    states = [x.cuda() for x in _states(forest, heads, width)]
    for asking in (_all(forest), _all(forest)[3::5]):
        ours, theirs = _fused(states, forest, asking, flex.BLOCK), _dense(states, forest, asking)
        assert max(_off(*pair) for pair in zip(ours, theirs, strict=True)) < 1e-4


@on_gpu
@pytest.mark.parametrize("width", [64, 128])
def test_bfloat16_kernels_stay_within_its_rounding(width: int) -> None:
    forest = plant(WIDE["two stems"], 1)
    narrow = [x.cuda().bfloat16() for x in _states(forest, (6, 2), width)]
    ours = _fused(narrow, forest, _all(forest), flex.BLOCK)
    for one, other in zip(ours, _dense(narrow, forest, _all(forest)), strict=True):
        assert one.dtype == torch.bfloat16
        assert _off(one, other) < 1e-2


@on_gpu
@pytest.mark.parametrize("tree", WIDE)
def test_a_training_step_on_a_gpu_has_the_losses_and_gradients_of_a_cpu(tree: str) -> None:
    assert flex.usable(torch.device("cuda", 0), 64)
    rows = [Tokens(tuple(token % 200 for token in row.ids), row.learn) for row in WIDE[tree]]
    there = _learned(*_model(torch.device("cuda", 0), 64), rows)
    for one, other in zip(there, _learned(*_model(CPU, 64), rows), strict=True):
        assert other.abs().max() > 0
        assert _off(one, other) < 1e-4


@on_gpu
def test_steps_of_other_sizes_compile_nothing_anew() -> None:
    from torch._dynamo.utils import counters

    model, learning = _model(torch.device("cuda", 0), 64)
    compiled = []
    for size in (300, 600, 150, 900, 700, 420):
        _learned(model, learning, _three_rows(size))
        compiled.append(counters["stats"]["unique_graphs"])
    assert compiled[1:] == compiled[:1] * 5


def _model(device: torch.device, width: int = 16) -> tuple[Decoder, list[torch.nn.Parameter]]:
    """A two-layer model with grouped heads and an adapter beside q and v that is no longer zero."""
    config = DecoderConfig(
        architecture="LlamaForCausalLM", vocab_size=200, hidden_size=4 * width, intermediate_size=6 * width,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=width, rms_norm_eps=1e-5,
        max_position_embeddings=2048, tie_word_embeddings=True, qkv_bias=False, output_bias=False, mlp_bias=False,
        qk_norm=False, rope=(("rope_type", "default"), ("rope_theta", 1e4)),
    )  # fmt: skip
    model = Decoder(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.1 * noise)
        learning = lora.wrap(model, LoraConfig(r=3, alpha=5.0, targets=("q_proj", "v_proj")), 0)
        for parameter in learning:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(device), [parameter for parameter in model.parameters() if parameter.requires_grad]


def _three_rows(size: int) -> list[Tokens]:
    """Rows of `size` tokens in all that begin alike, each with an end of its own that is learned."""
    drawn = np.random.default_rng(size).integers(0, 200, size)
    stem, *ends = np.split(drawn, [size // 2, size // 3 * 2, size // 6 * 5])
    return [row(*stem.tolist(), *end.tolist(), learn=len(end)) for end in ends]


def _learned(model: Decoder, learning: list[torch.nn.Parameter], rows: list[Tokens]) -> list[Tensor]:
    """Log-probabilities of the learned tokens, and the gradients of their mean."""
    given = learned_logprobs(model, rows)
    return [given.detach().cpu(), *(grad.cpu() for grad in torch.autograd.grad(given.mean(), learning))]
