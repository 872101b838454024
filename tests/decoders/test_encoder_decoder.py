"""The text is read once, by the encoder, and every step attends to it."""

from __future__ import annotations

import torch
from small_decoders import CARDS, random_tokens

from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioning import Conditions, text_ids
from zoo.decoders.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from zoo.decoders.sampling import Law, decode
from zoo.decoders.transformer import TransformerConfig


def encoder_decoder(cards=CARDS, encoder_layers=3, **options) -> EncoderDecoder:
    torch.manual_seed(0)
    core = TransformerConfig(16, 1, heads=2, **options)
    model = EncoderDecoder(EncoderDecoderConfig(AutoregressiveConfig(cards, core), encoder_layers))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


COND = Conditions(text=text_ids(["abcd", "ab"]))


def logits_of(model, tokens, cond=COND):
    return model(tokens, state=model.init_state(len(tokens), 0, cond)).logits


def test_the_encoder_runs_once_however_many_steps_are_decoded():
    model, calls = encoder_decoder(), []
    model.encoder.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    model.decoder.transformer.register_forward_hook(lambda *_: calls.append("decoder"))
    decode(model, random_tokens(model, 2, 1), 5, Law(temperature=0), cond=COND)
    assert calls == ["encoder"] + ["decoder"] * 5
    assert len(model.encoder.encoder.layers) == 3 and len(model.decoder.transformer.layers) == 1


def test_greedy_decoding_with_memory_gives_the_tokens_of_decoding_without():
    model = encoder_decoder()
    known = random_tokens(model, 2, 1)
    decoded = decode(model, known, 4, Law(temperature=0), cond=COND).codes
    for _ in range(4):
        known = torch.cat((known, logits_of(model, known)[:, -1:].argmax(-1)), 1)
    assert torch.equal(decoded, known[:, 1:])


def test_every_character_of_a_row_is_heard_by_that_row_alone():
    model, tokens = encoder_decoder(), random_tokens(encoder_decoder(), 2, 3)
    logits = logits_of(model, tokens)
    for text in (["xbcd", "ab"], ["abcx", "ab"], ["acbd", "ab"], ["abc", "ab"]):
        moved = (logits_of(model, tokens, Conditions(text=text_ids(text))) - logits).nan_to_num().abs().amax((2, 3))
        assert moved[0].min() > 1e-4 and moved[1].max() < 1e-6


def test_a_grid_is_decoded_from_text():
    model = encoder_decoder(axes=2)
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(2)).expand(2, -1, -1)
    tokens = random_tokens(model, 2, 4)
    logits = model(tokens, grid, model.init_state(2, 0, COND)).logits
    assert (model(tokens, grid.flip(-1), model.init_state(2, 0, COND)).logits - logits).nan_to_num().abs().max() > 1e-3


def test_a_decoder_that_loops_still_reads_the_text_once():
    model, calls = encoder_decoder(encoder_layers=2, loops=3), []
    for layer in model.encoder.encoder.layers:
        layer.register_forward_hook(lambda *_: calls.append("layer"))
    logits_of(model, random_tokens(model, 2, 3))
    assert calls == ["layer"] * 2 and model.info.layers == 3


def test_gradients_reach_every_weight():
    model = encoder_decoder().train()
    logits_of(model, random_tokens(model, 2, 4)).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_it_learns_to_spell():
    """Codes are the letters of the text, one a step; of four letters, guessing costs log 4 = 1.4 nats."""
    torch.manual_seed(0)
    core = TransformerConfig(16, 1, heads=2)
    model = EncoderDecoder(EncoderDecoderConfig(AutoregressiveConfig((4,), core, specials=1), 1)).train()
    words = ["abcd", "dcba", "bbaa", "cadd"]
    codes = torch.tensor([[ord(letter) - ord("a") for letter in word] for word in words])[..., None]
    tokens = torch.cat((torch.full((4, 1, 1), 4), codes), 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(120):
        logits = logits_of(model, tokens[:, :-1], Conditions(text=text_ids(words)))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
