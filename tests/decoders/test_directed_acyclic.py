"""The loss sums over all paths; decoding follows one of them, so that two good sentences are never mixed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_parallel import COND, CORE, SOURCE, small_parallel, train, trained

from zoo import registry
from zoo.configs import to_json
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.directed_acyclic import (
    NEVER,
    DirectedAcyclicConfig,
    DirectedAcyclicDecoder,
    Links,
    best_path,
    emissions,
    follow,
    path_nats,
)
from zoo.decoders.masked import MaskedConfig, MaskedDecoder, masked_loss
from zoo.decoders.parallel import mean_nats


def graph(places: int = 6, steps: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random emissions and edges of one row, float64."""
    generator = torch.Generator().manual_seed(seed)
    emitted = torch.randn(1, steps, places, generator=generator, dtype=torch.float64)
    scores = torch.randn(1, places, places, generator=generator, dtype=torch.float64)
    back = torch.ones(places, places, dtype=torch.bool).tril()
    return emitted, scores.masked_fill(back, NEVER).log_softmax(-1).masked_fill(back, NEVER)


def all_paths(emitted: torch.Tensor, onward: torch.Tensor, steps: int, places: int) -> dict[tuple[int, ...], float]:
    """Log-probability of each way through the places between the silent ones, saying the first `steps` steps."""
    found = {}
    for path in itertools.combinations(range(1, places - 1), steps):
        edges = zip((0, *path), (*path, places - 1), strict=True)
        spoken = sum(float(emitted[0, step, place]) for step, place in enumerate(path))
        found[path] = spoken + sum(float(onward[0, begin, end]) for begin, end in edges)
    return found


def counts(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize(("steps", "places"), [(3, 6), (1, 6), (2, 5), (0, 6), (4, 6)])
def test_the_loss_is_that_of_all_paths_together(steps, places):
    """Of a longer sequence and a larger graph, which hold more that must not count."""
    emitted, onward = graph(6, 4)
    ways = all_paths(emitted, onward, steps, places)
    expected = -math.log(sum(math.exp(way) for way in ways.values()))
    assert float(path_nats(emitted, onward, counts(places), counts(steps))) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_is_the_best_of_all(seed):
    emitted, onward = graph(7, 4, seed)
    ways = all_paths(emitted, onward, 3, 7)
    path = best_path(emitted, onward, counts(7), counts(3))
    assert tuple(path[0, :3].tolist()) == max(ways, key=ways.get) and path[0, 3] == 6


def test_rows_have_sequences_and_graphs_of_their_own():
    (emitted, onward), (other, edges) = graph(), graph(seed=1)
    nats = path_nats(torch.cat((emitted, other)), torch.cat((onward, edges)), counts(6, 5), counts(2, 3))
    alone = path_nats(emitted[:, :2], onward, counts(6), counts(2)), path_nats(other, edges, counts(5), counts(3))
    torch.testing.assert_close(nats, torch.cat(alone))


def test_gradients_are_finite_and_are_the_shares_of_paths():
    """The gradient of an edge is how probable it is, given the sequence; so is that of an emission."""
    ways = all_paths(*graph(), 3, 6)
    emitted, onward = (part.requires_grad_() for part in graph())
    nats = path_nats(emitted, onward, counts(6), counts(3))
    nats.sum().backward()
    total = sum(math.exp(way) for way in ways.values())
    along = sum(math.exp(way) for path, way in ways.items() if (2, 3) in itertools.pairwise(path)) / total
    there = sum(math.exp(way) for path, way in ways.items() if path[1] == 3) / total
    assert emitted.grad.isfinite().all() and onward.grad.isfinite().all()
    assert float(-onward.grad[0, 2, 3]) == pytest.approx(along)
    assert float(-emitted.grad[0, 1, 3]) == pytest.approx(there)


def test_what_no_path_says_is_infinitely_improbable_and_moves_nothing():
    emitted, onward = (torch.cat(parts).requires_grad_() for parts in zip(graph(), graph(seed=1), strict=True))
    nats = path_nats(emitted, onward, counts(6, 4), counts(3, 3))
    assert nats[0].isfinite() and nats[1] == torch.inf
    mean_nats(nats, torch.zeros(2, 3, 1)).backward()
    for part in (emitted, onward):
        assert part.grad.isfinite().all() and part.grad[0].any() and not part.grad[1].any()


def test_edges_lead_forward_inside_a_rows_places_and_each_place_but_the_last_leads_somewhere():
    torch.manual_seed(0)
    onward = Links(8, 2)(torch.randn(2, 5, 8), counts(5, 3))
    for row, places in enumerate([5, 3]):
        there = onward[row] > NEVER / 2
        forward = torch.arange(5) > torch.arange(5)[:, None]
        assert torch.equal(there, forward & (torch.arange(5) < places))
        torch.testing.assert_close(onward[row, : places - 1].exp().sum(1), torch.ones(places - 1))


def test_codes_of_one_place_are_said_together():
    logits = torch.randn(1, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([[[1, 4], [0, 2], [-1, -1]]])
    logp = logits.log_softmax(-1)
    spoken = emissions(logits, codes)
    assert spoken.shape == (1, 3, 4)
    torch.testing.assert_close(spoken[0, 1, 2], logp[0, 2, 0, 0] + logp[0, 2, 1, 2])


def test_a_path_is_followed_from_the_first_place_to_the_last():
    _, onward = graph(8)
    onward[0, 0] = onward[0, 3] = NEVER
    onward[0, 0, 3], onward[0, 3, 5], onward[0, 5, 7] = 0.0, 0.0, 0.0
    assert follow(onward, counts(8))[0].nonzero()[:, 0].tolist() == [3, 5]


def small(**options):
    return small_parallel(DirectedAcyclicDecoder, (5, 3), upsampling=4, **options)


@pytest.mark.parametrize("lookahead", [False, True])
def test_rows_are_decoded_as_they_are_alone(lookahead):
    model = small()
    result = model.generate(COND, lookahead=lookahead)
    assert result.lengths[2] == 0 and result.lengths[0] > 0
    for row, text in enumerate(["abc", "d"]):
        alone = model.generate(Conditions(text=text_ids([text])), lookahead=lookahead)
        length = int(result.lengths[row])
        assert alone.lengths == length and torch.equal(alone.codes[0], result.codes[row, :length])
        assert (result.codes[row, length:] == -1).all()


def test_lookahead_weighs_what_would_be_said():
    """Its next place has the best product of edge and token; the greedy one the best edge."""
    model = small()
    state = model.init_state(3, 0, COND)
    output = model.fill(state)
    edges = model.links(output.hidden, model.places(state))[0, 0]
    spoken = output.logits[0].log_softmax(-1).amax(-1).sum(-1)
    for lookahead, scores in [(False, edges), (True, edges + spoken)]:
        first = output.logits[0, scores.argmax()].argmax(-1)
        assert torch.equal(model.generate(COND, lookahead=lookahead).codes[0, 0], first)


def test_gradients_reach_every_weight():
    model = small().train()
    codes = torch.tensor([[[0, 1], [1, 2], [2, 0]], [[3, 0], [-1, -1], [-1, -1]]])
    mean_nats(model.nats(codes, Conditions(text=text_ids(["abc", "d"]))), codes).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_glancing_shows_a_share_of_what_was_wrong_where_the_best_path_has_it():
    model = small()
    codes = torch.tensor([[[0, 1], [1, 2], [2, 0], [4, 1]], [[3, 0], [1, 1], [-1, -1], [-1, -1]]])
    cond = Conditions(text=text_ids(["abc", "d"]))
    state = model.init_state(2, 0, cond)
    output, places = model.fill(state), model.places(state)
    path = best_path(emissions(output.logits, codes), model.links(output.hidden, places), places, counts(4, 2))
    for row, length in enumerate([4, 2]):
        said = output.logits[row, path[row, :length]].argmax(-1)
        wrong = int((said != codes[row, :length]).any(-1).sum())
        for share, shown in [(0.0, 0), (0.5, round(wrong / 2)), (1.0, wrong)]:
            tokens = model.glance(codes, state, share, torch.Generator().manual_seed(0))[row]
            known = (tokens != torch.tensor([5, 3])).all(-1)
            assert known.sum() == shown and set(known.nonzero()[:, 0].tolist()) <= set(path[row, :length].tolist())
            for step, place in enumerate(path[row, :length].tolist()):
                assert not known[place] or torch.equal(tokens[place], codes[row, step])
    assert (model.nats(codes, cond, 1.0) - model.nats(codes, cond)).abs().max() > 1e-3


MODES = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])[..., None]


def test_of_two_equally_good_sentences_it_says_one_where_a_plain_parallel_decoder_mixes_them():
    """Either costs log 2 = 0.7 nats to a decoder that knows both; to one law a place, 4 log 2 = 2.8."""
    model = trained(small_parallel(DirectedAcyclicDecoder, (4,), 24, random=False), ["ab", "ab"], MODES, 100)
    cond = Conditions(text=text_ids(["ab"]))
    nats = model.nats(MODES, Conditions(text=text_ids(["ab", "ab"])))
    assert nats.max() < 1.2
    for lookahead in (False, True):
        said = model.generate(cond, lookahead=lookahead).codes[0]
        assert any(torch.equal(said, mode) for mode in MODES)

    torch.manual_seed(0)
    plain = MaskedDecoder(MaskedConfig((4,), CORE))
    hidden = torch.full_like(MODES, 4)
    loss = train(plain.parameters(), lambda: masked_loss(plain(hidden).logits, MODES), 100)
    assert loss == pytest.approx(math.log(2), abs=0.02)  # a code
    first, last = plain.eval()(hidden[:1]).logits[0, [0, 3], 0].softmax(-1)
    assert min(first[0] * last[0], first[3] * last[3]) > 0.2  # begins and ends with 0, or with 3: no sentence does


def test_with_glancing_it_learns_sentences_of_several_codebooks():
    texts = ["ab", "ba", "b"]
    codes = torch.tensor([[[0, 1], [1, 0], [2, 1]], [[1, 0], [0, 1], [2, 0]], [[1, 0], [2, 1], [-1, -1]]])
    model = small_parallel(DirectedAcyclicDecoder, (3, 2), 5, random=False).train()
    cond, generator = Conditions(text=text_ids(texts)), torch.Generator().manual_seed(0)
    train(model.parameters(), lambda: mean_nats(model.nats(codes, cond, 0.5, generator), codes), 150)
    assert torch.equal(model.eval().generate(cond).codes, codes)


def test_it_is_made_by_name():
    config = DirectedAcyclicConfig(cards=(5,), transformer=CORE, condition=SOURCE, upsampling=3, links=2)
    model = registry.create("directed-acyclic", **to_json(config))
    assert model.config == config and registry.architecture_of(model) == "directed-acyclic"
    assert model.info.parameters == sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(ValueError, match="heads of links"):
        small(links=3)
