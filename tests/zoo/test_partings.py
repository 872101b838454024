"""Where two runs part, and what decided there, is found again from the steps before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_generators import SOUND_SIZES, answering, core, picture_decoder, speech_decoder, text_decoder

from zoo.bench_requests import Job
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.layouts import FrameDepth
from zoo.generation_codes import draw_codes
from zoo.generation_request import sampling_for
from zoo.partings import drawn, parting
from zoo.token_facts import TokenFacts

NUMBER = 3  # of the request
TEXT = Job((9,), prompt=torch.tensor([[5, 6, 7]]))
SPEECH = Job((6,), Conditions(torch.tensor([1]), text_ids(["so."])))


def depth_decoder():
    """Whose codes of a step depend on each other."""
    layout = FrameDepth(SOUND_SIZES, begin=True)
    config = DepthConfig(layout.cards, core(), 64, specials=layout.specials, depth=core())
    return answering(DepthDecoder(config), TokenFacts(layout, codec="speech"))


WAYS = {
    "greedy text": (text_decoder, "text", TEXT, dict(temperature=0.0)),
    "drawn text": (text_decoder, "text", TEXT, dict(temperature=0.7)),
    "a guided picture": (picture_decoder, "image", Job((3, 4), Conditions(torch.tensor([2]))), dict(guidance=2.0)),
    "guided speech in a delay": (speech_decoder, "audio", SPEECH, dict(guidance=2.0)),
    "frames and depth": (depth_decoder, "audio", Job((6,)), dict(temperature=0.5)),
}


@pytest.mark.parametrize("name", WAYS)
def test_at_a_parting_the_code_that_was_drawn_is_the_best_and_the_gap_is_that_to_the_next(name, monkeypatch):
    made, medium, job, law = WAYS[name]
    decoder, seen = made(), []
    sampling = sampling_for(decoder, medium, **law)
    results = draw_codes(decoder, decoder.tokens.layout, [job.shape], [NUMBER], job.cond, sampling, job.prompt).results
    steps = drawn(results)
    monkeypatch.setattr("zoo.partings.lead", lambda scores: seen.append(scores) or float(scores.max()))
    assert parting(decoder, job, NUMBER, sampling, results, results) is None and not seen
    logp = torch.cat([result.logp[0, : int(result.lengths[0])] for result in results])
    free = (logp != 0) | sampling.law.certain  # what the layout fixes was drawn from no law
    assert free.sum() >= 6
    for step, book in free.nonzero().tolist():
        codes = steps.clone()
        codes[step, book] += 1
        other = replace(results[0], codes=codes[None], lengths=torch.tensor([len(codes)]))
        assert parting(decoder, job, NUMBER, sampling, results, [other]).step == step
        assert int(seen[-1].argmax()) == int(steps[step, book])


def test_a_gap_is_the_distance_of_the_best_two():
    decoder, job = text_decoder(), TEXT
    sampling = sampling_for(decoder, "text", temperature=0.0)
    (result,) = draw_codes(decoder, decoder.tokens.layout, [job.shape], [0], None, sampling, job.prompt).results
    other = replace(result, codes=torch.cat((result.codes[:, :1], result.codes[:, 1:] + 1), 1))
    read = torch.cat((job.prompt[0], result.codes[0, :1, 0]))[None, :, None]
    best, second = decoder(read).logits[0, -1, 0].topk(2).values.tolist()
    assert parting(decoder, job, 0, sampling, [result], [other]) == (1, pytest.approx(best - second))
