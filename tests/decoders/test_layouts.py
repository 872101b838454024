"""Every layout brings codes to steps and back without loss, in an order in which a decoder can find them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import ceil, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.decoders.layouts import (
    CoarseFirst,
    Delay,
    Flat,
    FrameDepth,
    Grouped,
    Layout,
    NextScale,
    Parallel,
    Raster,
    Special,
    StackDelay,
)

SIZES = (3, 2, 4)
GRIDS = st.one_of(st.tuples(st.integers(0, 9)), st.tuples(st.integers(0, 4), st.integers(0, 4)))
FRAMES = st.tuples(st.integers(0, 13))
KINDS = (CoarseFirst, Delay, Flat, FrameDepth, Grouped, NextScale, Parallel, Raster, StackDelay)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
often = settings(max_examples=25, deadline=None)


@st.composite
def cases(draw, kind, ends=None):
    """A layout of that kind with any options, and the shape of a grid; `ends` chooses among those that may end."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    options = {"absent": draw(st.booleans()), "begin": draw(st.booleans())}
    if kind in (Raster, StackDelay, NextScale):
        assert not ends
    else:
        options["end"] = draw(st.booleans()) if ends is None else ends
    if kind in (CoarseFirst, Grouped):
        options["group"] = draw(st.integers(1, 4))
    if kind is Raster:
        options |= {"row_end": draw(st.booleans()), "grid_end": draw(st.booleans())}
    if kind is NextScale:
        sides = st.integers(1, 4)
        options["scales"] = tuple(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3)))
        return NextScale(sizes, **options), (sum(map(prod, options["scales"])),)
    if kind in (Delay, FrameDepth) and draw(st.booleans()):
        later = draw(st.lists(st.integers(0, 3), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
        options["delays"] = (0, *sorted(later))
    layout = kind(sizes, **options)
    if layout.axes == 2:
        return layout, draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    return layout, draw(FRAMES if layout.axes == 1 else GRIDS)


def random_codes(layout: Layout, shape: tuple[int, ...], rows: int = 3, seed: int = 0) -> torch.Tensor:
    """Codes in range; if the layout knows absent ones, each cell has some number of codes from none to all."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (rows, *shape), generator=generator) for size in layout.sizes], 1)
    if layout.absent:
        depth = torch.randint(len(layout.sizes) + 1, (rows, *shape), generator=generator)
        level = torch.arange(len(layout.sizes)).view(-1, *[1] * len(shape))
        codes = codes.where(level < depth[:, None], -1)
    return codes


def random_ids(layout: Layout, shape: tuple[int, ...], top: int, rows: int = 3) -> torch.Tensor:
    """Any ids from 0 on in all slots, up to so many behind the cards."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(card + top, (rows, layout.steps(shape)), generator=generator) for card in layout.cards]
    return torch.stack(drawn, -1)


def step_of(layout: Layout, shape: tuple[int, ...]) -> torch.Tensor:
    return layout.places(shape) // len(layout.slots)


@every_kind
@often
@given(data=st.data())
def test_unpack_gives_back_what_was_packed(kind, data):
    layout, shape = data.draw(cases(kind))
    codes = random_codes(layout, shape)
    tokens = layout.pack(codes)
    assert tokens.dtype == torch.int64 and tokens.shape == (3, layout.steps(shape), len(layout.slots))
    assert torch.equal(layout.unpack(tokens, shape), codes)


@every_kind
@often
@given(data=st.data())
def test_pack_gives_back_what_was_unpacked(kind, data):
    layout, shape = data.draw(cases(kind))
    sizes = torch.tensor([layout.sizes[codebook] for codebook in layout.slots])
    forced = layout.forced(shape)
    tokens = (random_ids(layout, shape, 0) % sizes).where(forced < 0, forced)
    assert torch.equal(layout.pack(layout.unpack(tokens, shape)), tokens)


@every_kind
@often
@given(data=st.data())
def test_each_code_stands_in_one_slot_of_its_codebook_and_structure_in_all_others(kind, data):
    layout, shape = data.draw(cases(kind))
    coords, forced = layout.coords(shape), layout.forced(shape)
    assert ((coords >= 0) == (forced < 0)).all()
    found = [(layout.slots[slot], int(coords[step, slot])) for step, slot in (coords >= 0).nonzero().tolist()]
    assert sorted(found) == [(q, cell) for q in range(len(layout.sizes)) for cell in range(prod(shape))]
    assert torch.equal(
        coords.flatten()[layout.places(shape).flatten(1)], torch.arange(prod(shape)).expand(len(layout.sizes), -1)
    )


@pytest.mark.parametrize("T", [1, 2, 3, 7, 12])
def test_step_counts_are_those_stated(T):
    K, G, H, W = 3, 2, T, 4
    scales = ((1, 1), (2, 3), (T, T))
    cells = 1 + 6 + T * T
    counts = {
        (Parallel((9,)), (T,)): (T, T),
        (Parallel(SIZES), (T,)): (T, T),
        (Parallel(SIZES), (H, W)): (H * W, H * W),
        (Raster(SIZES), (H, W)): (H * W, H * W),
        (Raster(SIZES, row_end=True), (H, W)): (H * W + H, H * W + H),
        (Raster(SIZES, row_end=True, grid_end=True), (H, W)): (H * W + H + 1, H * W + H + 1),
        (Flat(SIZES), (T,)): (T * K, T * K),
        (Flat(SIZES), (H, W)): (H * W * K, H * W * K),
        (Delay(SIZES), (T,)): (T + K - 1, T + K - 1),
        (Delay(SIZES, delays=(0, 2, 5)), (T,)): (T + 5, T + 5),
        (StackDelay(SIZES), (T,)): (T + K - 1, T + K - 1),
        (FrameDepth(SIZES), (T,)): (T, T),
        (FrameDepth(SIZES), (H, W)): (H * W, H * W),
        (FrameDepth(SIZES, delays=(0, 1, 1)), (T,)): (T + 1, T + 1),
        (Grouped(SIZES, group=G), (T,)): (ceil(T / G), ceil(T / G)),
        (CoarseFirst(SIZES), (T,)): (T * K, T + K - 1),
        (CoarseFirst(SIZES, group=G), (T,)): (K * ceil(T / G), ceil(T / G) + K - 1),
        (NextScale((9,), scales=scales), (cells,)): (cells, 3),
    }
    assert {key: (key[0].steps(key[1]), key[0].rounds(key[1])) for key in counts} == counts


def test_the_begin_step_and_the_frame_of_the_end_count():
    assert Delay(SIZES, begin=True).steps((5,)) == 1 + 7
    assert Delay(SIZES, end=True).steps((5,)) == 8
    assert Delay(SIZES).steps((0,)) == 0 and Delay(SIZES).rounds((0,)) == 0
    assert Delay(SIZES, begin=True).steps((0,)) == 1


@every_kind
@often
@given(data=st.data())
def test_a_code_changes_its_own_slot_and_no_other_step(kind, data):
    layout, shape = data.draw(cases(kind))
    codes = random_codes(layout, shape, rows=1).clamp(min=0)
    places, tokens = layout.places(shape).flatten(), layout.pack(codes)
    for index, place in enumerate(places.tolist()):
        codebook, cell = divmod(index, prod(shape))
        other = codes.clone()
        other.view(-1)[index] = (codes.view(-1)[index] + 1) % layout.sizes[codebook]
        changed = (layout.pack(other) != tokens).flatten().nonzero().flatten().tolist()
        assert changed == [place][: layout.sizes[codebook] - 1], cell  # a codebook of one code has no other


@every_kind
@often
@given(data=st.data())
def test_a_code_is_never_decoded_before_a_coarser_one_of_its_frame(kind, data):
    layout, shape = data.draw(cases(kind))
    places = layout.places(shape)
    turn = layout.block_ids(shape)[step_of(layout, shape)] * 8 + torch.tensor(layout.ranks)[places % len(layout.slots)]
    later = turn.diff(dim=0)
    assert (later >= 0).all()
    if kind in (CoarseFirst, Flat, FrameDepth, StackDelay) or (kind is Delay and not layout.delays):
        assert (later > 0).all()


@every_kind
@often
@given(data=st.data())
def test_blocks_grow_by_one_and_steps_have_positions_of_their_own(kind, data):
    layout, shape = data.draw(cases(kind))
    blocks, positions = layout.block_ids(shape), layout.positions(shape)
    assert len(blocks) == len(positions) == layout.steps(shape)
    assert ((blocks.diff() == 0) | (blocks.diff() == 1)).all() and (blocks[:1] == 0).all()
    assert blocks.unique().tolist() == list(range(layout.rounds(shape)))
    assert len(positions.unique(dim=0)) == len(positions) and (positions >= 0).all()
    if kind not in (CoarseFirst, NextScale):
        assert torch.equal(blocks, torch.arange(len(blocks)))


@every_kind
@often
@given(data=st.data())
def test_neighbours_are_the_codes_before_in_earlier_passes(kind, data):
    layout, shape = data.draw(cases(kind))
    neighbours, slots = layout.neighbours(shape), len(layout.slots)
    assert neighbours.shape == (layout.steps(shape), slots, len(shape))
    coords, blocks = layout.coords(shape), layout.block_ids(shape)
    grid = torch.arange(prod(shape)).view(shape)
    for step, slot in torch.cartesian_prod(torch.arange(len(coords)), torch.arange(slots)).tolist():
        for axis, place in enumerate(neighbours[step, slot].tolist()):
            if place >= 0:
                assert coords[step, slot] >= 0 and blocks[place // slots] < blocks[step]
                assert layout.slots[place % slots] == layout.slots[slot]
            if kind in (CoarseFirst, Grouped, NextScale) or coords[step, slot] < 0:
                continue
            cell = (grid == coords[step, slot]).nonzero()[0]
            cell[axis] -= 1
            before = layout.places(shape)[layout.slots[slot]][tuple(cell.tolist())].item() if cell[axis] >= 0 else -1
            assert place == (before if before // slots < step else -1)


def test_neighbours_in_a_group_are_the_last_frame_of_the_group_before():
    layout = Grouped((4, 4), group=3)
    coords = layout.coords((8,))
    before = layout.neighbours((8,))[..., 0]
    assert before[0].tolist() == [-1] * 6
    assert coords.flatten()[before[1]].tolist() == [2] * 6
    assert coords.flatten()[before[2]][:4].tolist() == [5] * 4 and before[2, 4:].tolist() == [-1, -1]


def test_codes_that_come_in_one_pass_have_no_neighbours():
    layout = CoarseFirst(SIZES)
    before = layout.neighbours((4,))[..., 0]
    assert before[:4, 0].tolist() == [-1, 0, 3, 6]
    assert (before[4:] == -1).all()


def test_neighbours_in_the_next_scale_are_the_cells_above():
    layout = NextScale((9,), scales=((1, 2), (2, 2), (3, 4)), begin=True)
    before = layout.neighbours((18,))[1:, 0, 0] - 1  # without the begin step
    assert before[:6].tolist() == [-2, -2, 0, 1, 0, 1]
    assert before[6:].tolist() == [2, 2, 3, 3, 2, 2, 3, 3, 4, 4, 5, 5]


@every_kind
@often
@given(data=st.data())
def test_no_id_but_a_code_comes_out_as_a_code(kind, data):
    layout, shape = data.draw(cases(kind))
    tokens = random_ids(layout, shape, layout.specials)
    codes = layout.unpack(tokens, shape)
    read = tokens.flatten(1)[:, layout.places(shape)]
    sizes = torch.tensor(layout.sizes).view(-1, *[1] * len(shape))
    assert ((codes == -1) | ((codes == read) & (codes < sizes))).all()
    if not layout.absent and not layout.end:
        assert torch.equal(codes, read.where(read < sizes, -1))


@every_kind
@often
@given(data=st.data())
def test_the_first_steps_give_the_codes_in_them_and_tell_which_frames_are_complete(kind, data):
    layout, shape = data.draw(cases(kind))
    codes = random_codes(layout, shape)
    tokens, steps = layout.pack(codes), step_of(layout, shape)
    for count in range(layout.steps(shape) + 1):
        part = layout.unpack(tokens[:, :count], shape)
        assert torch.equal(part, codes.where(steps < count, -1))
        complete = layout.completed_at(shape) <= count
        assert torch.equal(complete, (steps < count).all(0))
        assert torch.equal(part.where(complete, -2), codes.where(complete, -2))


@pytest.mark.parametrize(
    "layout", [Parallel(SIZES), Delay(SIZES), Flat(SIZES), FrameDepth(SIZES), Grouped(SIZES)], ids=str
)
def test_streams_start_alike_whatever_their_length(layout):
    short, long = layout.pack(random_codes(layout, (6,))), None
    codes = random_codes(layout, (11,), seed=5)
    codes[..., :6] = random_codes(layout, (6,))
    long = layout.pack(codes)
    whole = int(layout.completed_at((6,)).min()) if isinstance(layout, Delay) else layout.steps((6,))
    assert torch.equal(short[:, :whole], long[:, :whole])
    assert torch.equal(layout.coords((6,))[: 6 // 2], layout.coords((11,))[: 6 // 2])


def test_a_delayed_stream_looks_like_this():
    layout = Delay((10, 10), begin=True)
    tokens = layout.pack(torch.tensor([[[1, 2, 3], [4, 5, 6]]]))
    begin, padding = 10 + Special.BEGIN, 10 + Special.PAD
    assert tokens[0].T.tolist() == [[begin, 1, 2, 3, padding], [begin, padding, 4, 5, 6]]
    assert layout.positions((3,))[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_picture_with_the_ends_of_rows_looks_like_this():
    layout = Raster((10,), row_end=True, grid_end=True)
    tokens = layout.pack(torch.tensor([[[[1, 2], [3, 4]]]]))
    row, grid = 10 + Special.ROW_END, 10 + Special.GRID_END
    assert tokens[0, :, 0].tolist() == [1, 2, row, 3, 4, row, grid]
    assert layout.positions((2, 2)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]


def test_specials_are_as_many_as_a_layout_uses_and_all_its_ids_are_in_the_vocabulary():
    used = {Parallel((3,)): 2, Parallel((3,), begin=True): 3, Raster((3,), row_end=True): 4}
    used |= {Raster((3,), begin=True): 3, Raster((3,), grid_end=True): 5}
    assert {layout: layout.specials for layout in used} == used
    for layout in used:
        shape = (2, 3) if layout.axes == 2 else (3,)
        assert layout.forced(shape).max() < layout.cards[0] + layout.specials


def test_cards_count_what_can_come_out():
    assert Delay((5, 7)).cards == (5, 7)
    assert Delay((5, 7), absent=True).cards == (6, 8)
    assert Delay((5, 7), end=True).cards == (6, 7) and Delay((5, 7), end=True).end_id == 5
    assert Grouped((5, 7), group=2, absent=True, end=True).cards == (7, 8, 7, 8)
    assert Delay((5, 7), absent=True, end=True).special(Special.PAD).tolist() == [8, 9]
    assert Delay((5, 7)).end_id is None


def test_codes_of_a_step_depend_on_each_other_in_frame_and_depth_only():
    assert FrameDepth(SIZES, delays=(0, 1, 1)).ranks == (0, 1, 2)
    assert Delay(SIZES).ranks == Parallel(SIZES).ranks == (0, 0, 0)
    assert Grouped(SIZES, group=2).ranks == (0,) * 6


@pytest.mark.parametrize("codebooks", [1, 2, 3, 4, 8])
def test_stacked_frames_are_decoded_when_their_neighbours_are_whole_or_not_begun(codebooks):
    layout = StackDelay((2,) * codebooks)
    for frames in range(3 * codebooks, 3 * codebooks + 20):
        begun = step_of(layout, (frames,))[0]
        assert begun.sort().values.tolist() == list(range(frames))
        assert (begun.diff().abs() >= codebooks).all()
        assert torch.equal(layout.completed_at((frames,)), begun + codebooks)
        assert layout.positions((frames,))[begun, 0].tolist() == list(range(frames))


@pytest.mark.parametrize(
    "kind", [CoarseFirst, Delay, Flat, FrameDepth, Grouped, Parallel], ids=lambda kind: kind.__name__
)
@often
@given(data=st.data())
def test_rows_of_any_length_end_where_they_end(kind, data):
    layout, shape = data.draw(cases(kind, ends=True))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, shape[0]), min_size=3, max_size=3)))
    codes = random_codes(layout, shape)
    codes = codes.where(torch.arange(shape[0]) < lengths[:, None, None], -7)  # not looked at
    tokens = layout.pack(codes, lengths)
    assert torch.equal(layout.lengths(tokens, shape), lengths)
    assert torch.equal(layout.unpack(tokens, shape), codes.clamp(min=-1))
    ends = (tokens == layout.end_id) & (torch.tensor(layout.slots) == 0)
    assert (ends.sum((1, 2)) == 1).all()
    assert torch.equal(layout.close(tokens, shape), tokens)

    # What a decoder goes on to draw behind the end counts for nothing, and `close` takes it away.
    padding = layout.special(Special.PAD)
    drawn = tokens.where((tokens != padding) | (layout.forced(shape) >= 0), 0)
    assert torch.equal(layout.close(drawn, shape), tokens)
    assert torch.equal(layout.unpack(drawn, shape), codes.clamp(min=-1))


def test_a_stream_that_has_not_ended_yet_is_as_long_as_its_grid():
    layout = Delay((5, 5), end=True)
    tokens = layout.pack(torch.tensor([[[1, 2, 3, 4], [1, 2, 3, 4]]]), torch.tensor([2]))
    assert [int(layout.lengths(tokens[:, :count], (4,))) for count in range(5)] == [4, 4, 4, 2, 2]


def test_lengths_without_an_end_token_are_padding():
    layout = Delay((5, 5))
    codes = torch.tensor([[[1, 2, 3], [1, 2, 3]], [[1, 4, 4], [1, 4, 4]]])
    tokens = layout.pack(codes, torch.tensor([3, 1]))
    padding = 5 + Special.PAD
    assert tokens[1].tolist() == [[1, padding], [padding, 1], [padding] * 2, [padding] * 2]
    assert layout.unpack(tokens, (3,))[1].tolist() == [[1, -1, -1]] * 2


def test_a_code_behind_an_absent_one_stands_for_nothing():
    layout = Parallel((5, 5, 5), absent=True)
    assert layout.unpack(torch.tensor([[[1, 5, 2]]]), (1,)).flatten().tolist() == [1, -1, -1]
    assert layout.pack(torch.tensor([[[1], [-1], [-1]]])).flatten().tolist() == [1, 5, 5]


def test_layouts_are_values():
    layout = Delay(SIZES, begin=True)
    assert layout == Delay(SIZES, begin=True) != Delay(SIZES) and len({layout, Delay(SIZES, begin=True)}) == 1
    with pytest.raises(FrozenInstanceError):
        layout.begin = False
    expected = layout.coords((4,)).clone()
    for name in ("coords", "forced", "positions", "block_ids", "places"):
        getattr(layout, name)((4,)).fill_(0)
    assert torch.equal(layout.coords((4,)), expected)


CODES = torch.zeros(2, 3, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Parallel(()), "one or more codebooks"),
        (lambda: Parallel((4, 0)), "at least one code"),
        (lambda: Delay(SIZES, delays=(0, 2, 1)), r"delays \(0, 2, 1\)"),
        (lambda: Delay(SIZES, delays=(0, 1)), "one for each of 3 codebooks"),
        (lambda: Delay(SIZES, delays=(1, 1, 1)), "from 0"),
        (lambda: Grouped(SIZES, group=0), "group is 0"),
        (lambda: CoarseFirst(SIZES, group=-1), "group is -1"),
        (lambda: StackDelay(SIZES, end=True), "can't have an end token"),
        (lambda: Raster(SIZES, end=True), "set grid_end"),
        (lambda: NextScale(SIZES, scales=()), "one or more maps"),
        (lambda: NextScale(SIZES, scales=((0, 1),)), "one or more maps"),
        (lambda: NextScale(SIZES, scales=((1, 1),), end=True), "no end token"),
        (lambda: NextScale(SIZES, scales=((1, 1), (2, 2))).steps((4,)), "4 codes for scales .* 5 cells"),
        (lambda: Delay(SIZES).steps((4, 4)), r"\(4, 4\); Delay as made here lays out grids of 1 axis"),
        (lambda: Raster(SIZES).steps((4,)), "2 axes"),
        (lambda: Parallel(SIZES, end=True).steps((4, 4)), "1 axis"),
        (lambda: Parallel(SIZES).steps(()), "one axis or more"),
        (lambda: Parallel(SIZES).steps((-1,)), r"\(-1,\)"),
        (lambda: Parallel(SIZES).pack(CODES[:, :2]), r"expected \[rows, 3, \*grid\]"),
        (lambda: Parallel(SIZES).pack(CODES[..., 0]), r"expected \[rows, 3, \*grid\]"),
        (lambda: Parallel(SIZES).pack(CODES + 2), r"code 2 \(row 0, codebook 1, cell \(0,\)\) is not in 0 .. 1"),
        (lambda: Parallel(SIZES).pack(CODES - 1), "code -1 .* absent=True"),
        (lambda: Parallel(SIZES, absent=True).pack(CODES - 2), "code -2"),
        (lambda: Parallel(SIZES, absent=True).pack(CODES - torch.eye(3)[1, :, None].long()), "none in the one before"),
        (lambda: Parallel(SIZES).pack(CODES, torch.tensor([4])), r"lengths \[1\]"),
        (lambda: Parallel(SIZES).pack(CODES, torch.tensor([4, 5])), r"\[4, 5\] are not all in 0 .. 4"),
        (lambda: Parallel(SIZES).pack(CODES[..., None], torch.tensor([4, 4])), "one axis"),
        (lambda: Parallel(SIZES).unpack(CODES.mT[..., :2], (4,)), "3 slots"),
        (lambda: Parallel(SIZES).unpack(CODES.mT, (3,)), "up to 3 steps"),
    ],
)
def test_what_a_layout_cannot_do_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
