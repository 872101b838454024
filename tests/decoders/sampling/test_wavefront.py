"""Steps in flight come to stand as step-by-step decoding gives them, where loops forget what they began with."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder

from zoo.decoders.sampling import Law, Noise, decode, wavefront
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.wavefront import decode_wavefront

GREEDY = Law(temperature=0)
LOOPED = dict(layers=3, prelude=1, coda=1, inject=True)


def looped(loops: int = 24, forgets: float = 0.35, attentive: bool = True, **options):
    """A decoder whose loops keep a share of what they began with; `attentive`: steps see each other in them, too."""
    model = small_decoder(loops=loops, **(LOOPED | options))
    width = model.info.width
    with torch.no_grad():
        model.transformer.inject.weight[:, :width] = forgets * torch.eye(width)
        for product in model.transformer.layers[1].ends():
            product.weight *= 0.1
        if not attentive:
            model.transformer.layers[1].attention.out.weight.zero_()
    return model


@pytest.mark.parametrize(("law", "seed"), [(GREEDY, 0), (Law(top_p=0.9), 1), (Law(), 2)])
def test_loops_that_settle_give_what_step_by_step_decoding_gives_in_fewer_layers(law, seed):
    model = looped()
    prompt, noise = random_tokens(model, 3, 4), Noise(seed)
    plain = decode(model, prompt, 12, law, noise)
    found = decode_wavefront(model, prompt, 12, law, noise, window=6, loops=2, settled=1e-7)
    assert torch.equal(found.codes, plain.codes) and found.exactness is Exactness.APPROXIMATE
    torch.testing.assert_close(found.logp, plain.logp, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.lengths, plain.lengths) and torch.equal(found.trace.emitted.sum(0), plain.lengths)
    layers = (1 + 2 + 1) * len(found.trace.target_forwards)
    assert layers < 0.5 * 12 * model.info.layers


def test_one_step_in_flight_loops_as_often_as_the_model():
    """Where steps don't see each other in the loops, whose memory is another here, this is plain decoding."""
    model = looped(loops=3, forgets=0.9, attentive=False)
    prompt = random_tokens(model, 2, 3)
    plain = decode(model, prompt, 8, Law(), Noise(5))
    found = decode_wavefront(model, prompt, 8, Law(), Noise(5), window=1, settled=0.0)
    assert torch.equal(found.codes, plain.codes) and len(found.trace.target_forwards) == 3 * 8
    torch.testing.assert_close(found.logp, plain.logp)


def test_what_stands_in_memory_is_what_came_out(monkeypatch):
    """Loops that hand on much and stop early change their mind often, and no step may stand on one read before that."""
    model, kept = looped(loops=4, forgets=0.9), [[], [], []]
    prompt = random_tokens(model, 3, 3)
    passed, commit = wavefront._Flight.passed, wavefront._Flight.commit

    def reading(self, tokens, *rest):
        self.read = tokens
        return passed(self, tokens, *rest)

    def keeping(self, count, source):
        for row, line in enumerate(kept):
            line += self.read[row, : int(count[row])].tolist()
        commit(self, count, source)

    monkeypatch.setattr(wavefront._Flight, "passed", reading)
    monkeypatch.setattr(wavefront._Flight, "commit", keeping)
    found = wavefront.decode_wavefront(model, prompt, 20, Law(), Noise(6), window=6, settled=0.3)
    for row, line in enumerate(kept):
        assert line == [prompt[row, -1].tolist(), *found.codes[row, :-1].tolist()]


def test_a_row_does_not_depend_on_those_beside_it():
    model, law = looped(loops=6, forgets=0.8), Law()
    prompt = random_tokens(model, 3, 4)
    whole = decode_wavefront(model, prompt, 10, law, Noise(1), window=5)
    for row in range(3):
        alone = decode_wavefront(model, prompt[row : row + 1], 10, law, Noise(1, rows=(row,)), window=5)
        assert torch.equal(alone.codes[0], whole.codes[row])


def test_structure_stops_processors_and_guidance_are_those_of_decode():
    model = looped()
    prompt, noise = random_tokens(model, 2, 4), Noise(3)
    forced = torch.full((1, 12, 2), -1)
    forced[0, 6] = torch.tensor([4, 2])
    law = Law(processors=(RepetitionPenalty(1.3),))
    settings = dict(stop=(2, 9), forced=forced, lengths=torch.tensor([4, 2]))
    plain = decode(model, prompt, torch.tensor([12, 7]), law, noise, **settings)
    found = decode_wavefront(model, prompt, torch.tensor([12, 7]), law, noise, window=6, settled=1e-7, **settings)
    assert torch.equal(found.codes, plain.codes) and torch.equal(found.lengths, plain.lengths)
    torch.testing.assert_close(found.logp, plain.logp, rtol=1e-3, atol=1e-3)
    guided, streams = Law(streams=(1.5, -0.5)), torch.cat((prompt, random_tokens(model, 2, 4, seed=9)))
    plain = decode(model, streams, 8, guided, noise)
    assert torch.equal(decode_wavefront(model, streams, 8, guided, noise, settled=1e-7).codes, plain.codes)


def test_what_settles_sooner_takes_fewer_passes():
    model = looped()
    prompt = random_tokens(model, 1, 4)
    passes = [
        len(decode_wavefront(model, prompt, 12, GREEDY, settled=settled).trace.target_forwards)
        for settled in (0.0, 1e-5, 1e-2)
    ]
    assert passes[0] > passes[1] > passes[2] >= 12


@pytest.mark.parametrize("options", [{"inject": False}, {"prelude": 0}])
def test_decoders_that_do_not_loop_on_a_prelude_are_refused(options):
    model = small_decoder(loops=2, **(LOOPED | options))
    with pytest.raises(ValueError, match="inject and prelude"):
        decode_wavefront(model, random_tokens(model, 1, 2), 3)
    with pytest.raises(ValueError, match="0 loops of a pass"):
        decode_wavefront(looped(), random_tokens(model, 1, 2), 3, loops=0)
