"""Tokenizers and models of text as their authors published them become directories that `zoo.load` takes."""

import json

import pytest
import torch
from small_image_codecs import pictures
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import zoo
from zoo.checkpoints.keymaps import llamagen, var_vqvae
from zoo.codecs.errors import UserError
from zoo.codecs.image.multi_scale import MultiScaleConfig, MultiScaleVQVAE
from zoo.codecs.image.vqgan import VQGAN, VQGANConfig
from zoo.convert import convert

SMALL = dict(width=32, multipliers=(1, 1, 2), blocks=1, latent=12, code_dim=6, codebook_size=64)


def drawn(codec):
    """Random biases and norms, large kernels: an output that hardly depends on the input would prove little."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in codec.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            else:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
    return codec.eval()


@pytest.fixture(params=[(4,), (1, 4), ()], ids=["coarse attention", "more attention", "no attention"])
def theirs_of_llamagen(request):
    """A small VQGAN and its tensors as LlamaGen names them, with a record of the codes that training used."""
    codec = drawn(VQGAN(VQGANConfig(**SMALL, attention=request.param, middle_attention=bool(request.param))))
    return codec, llamagen(3).write(codec.state_dict()) | {"quantize.codebook_used": torch.zeros(65536)}


@pytest.fixture
def var():
    """A small tokenizer of VAR's ten scales and its tensors as published."""
    codec = drawn(MultiScaleVQVAE(MultiScaleConfig(**SMALL, attention=(4,), phis=3)))
    return codec, var_vqvae(3, scales=10).write(codec.state_dict())


def assert_same(codec, folder, media):
    """The directory holds that codec: configuration, codes and pixels."""
    read = zoo.load(folder)
    assert read.config == codec.config
    tokens = read.encode(media)
    assert torch.equal(tokens.codes, codec.encode(media).codes)
    assert len(tokens.codes.unique()) > 10
    assert torch.equal(read.decode(tokens), codec.decode(tokens))


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"model": t, "steps": 7}], ids=["bare", "wrapped"])
def test_a_file_of_llamagen_says_by_its_shapes_what_it_is(theirs_of_llamagen, tmp_path, wrap):
    codec, tensors = theirs_of_llamagen
    torch.save(wrap(tensors), tmp_path / "vq.pt")
    facts = convert(tmp_path / "vq.pt", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(2, 24, 32))
    assert zoo.load(tmp_path / "ours").weights == facts["sha256"]


def test_averaged_weights_are_preferred(theirs_of_llamagen, tmp_path):
    codec, tensors = theirs_of_llamagen
    torch.save({"model": {name: 0 * tensor for name, tensor in tensors.items()}, "ema": tensors}, tmp_path / "vq.pt")
    convert(tmp_path / "vq.pt", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(1, 24, 32))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_var_is_read_in_either_format_of_pytorch(var, tmp_path, zipped):
    codec, tensors = var
    torch.save(tensors, tmp_path / "vae.pth", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "vae.pth", tmp_path / "ours")
    assert_same(codec, tmp_path / "ours", pictures(1, 64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize.ema_vocab_hit_SV": torch.zeros(3, 64)}, "has 3 scales of unknown size; only VAR's 10"),
        ({"quantize.embedding.weight": None}, "has no tensor 'quantize.embedding.weight' of 2 axes; is the file whole"),
        ({"quant_conv.weight": torch.zeros(6)}, "has no tensor 'quant_conv.weight' of 4 axes"),
        ({"decoder.norm_out.bias": None}, "tensors are missing: decoder.norm_out.bias"),
        ({"decoder.conv_in.weight": torch.zeros(64, 13, 3, 3)}, r"conv_in.weight has shape \[64, 13, 3, 3\], expected"),
        ({"stranger.weight": torch.zeros(1)}, "no rule for tensor 'stranger.weight'"),
        ({"encoder.conv_in.weight": torch.zeros(40, 3, 3, 3)}, "must be a multiple of groups 32"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_damaged_file_is_refused(var, tmp_path, change, message):
    _, tensors = var
    tensors = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "vae.pth")
    with pytest.raises(UserError, match=f"vae.pth: .*{message}"):
        convert(tmp_path / "vae.pth", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Stranger:
    """What only unpickling with code of its own brings back."""


@pytest.mark.parametrize("saved", [{"model": Stranger()}, {"a.weight": torch.zeros(2)}, [1, 2]])
def test_a_file_of_something_else_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: not a checkpoint"):
        convert(tmp_path / "other.pt", tmp_path / "ours")


PROMPT = "the cat sat on the"
TEXT_MODELS = {
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64,
        ),
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
}  # fmt: skip


def trained_tokenizer():
    """A byte-level BPE of fewer tokens than the models have, the end of a text among them."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(["the cat sat on the mat, the dog on the log: größer"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<|endoftext|>")


@pytest.fixture(params=TEXT_MODELS)
def theirs_of_text(request, tmp_path):
    """A small model of text and its tokenizer, saved by transformers."""
    torch.manual_seed(0)
    kind, config = TEXT_MODELS[request.param]
    tokenizer = trained_tokenizer()
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    model = kind(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # as they come, all logits are nearly the same
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    return model, tokenizer, tmp_path / "theirs"


def test_a_model_of_text_writes_what_transformers_writes(theirs_of_text, tmp_path):
    model, tokenizer, folder = theirs_of_text
    convert(folder, tmp_path / "ours")
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    written = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)
    expected = tokenizer.decode(written[0], skip_special_tokens=True)
    assert len(expected) > len(PROMPT) + 10
    assert zoo.generate(tmp_path / "ours", prompt=PROMPT, steps=30, temperature=0).text == (expected,)


def test_a_model_of_text_stops_at_its_end(theirs_of_text, tmp_path):
    model, tokenizer, folder = theirs_of_text
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    third = int(model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)[0, -1])
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": third}))
    convert(folder, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").tokens.vocabulary.end == third
    made = zoo.generate(tmp_path / "ours", prompt=PROMPT, steps=30, temperature=0)
    assert made.facts()["tokens"] <= 3


def test_a_model_of_text_drafts_on_the_command_line(theirs_of_text, tmp_path, run):
    _, _, folder = theirs_of_text
    ours = tmp_path / "ours"
    assert run("convert", folder, "-o", ours)[0] == 0
    asked = "generate", ours, "--prompt", PROMPT, "--steps", 20, "--temperature", 0
    alone, drafted = run(*asked), run(*asked, "--proposer", f"draft:{ours}")
    assert alone[:2] == drafted[:2] and alone[0] == 0
    assert "4.00 drafted steps accepted in each" in drafted[2]


def test_a_model_of_text_keeps_to_a_grammar(theirs_of_text, tmp_path):
    convert(theirs_of_text[2], tmp_path / "ours")
    made = zoo.generate(tmp_path / "ours", prompt="the ", steps=30, processors=["regex:(cat|größer)s?"])
    assert made.text[0] in {"the cat", "the cats", "the größer", "the größers"}


def test_of_several_ends_the_one_that_the_tokenizer_names_is_taken(theirs_of_text, tmp_path):
    _, tokenizer, folder = theirs_of_text
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": [7, tokenizer.eos_token_id]}))
    convert(folder, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").tokens.vocabulary.end == tokenizer.eos_token_id
    (folder / "tokenizer_config.json").unlink()
    convert(folder, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").tokens.vocabulary.end == 7


def test_other_copies_of_the_weights_are_left_alone(theirs_of_text, tmp_path):
    """Mistral's repositories hold the same weights once more, named as its authors name them."""
    folder = theirs_of_text[2]
    (folder / "consolidated.safetensors").write_bytes(b"something else")
    convert(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token_id": None}, "config.json: eos_token_id must be the token behind a text, got None"),
        ({"vocab_size": 260}, "tokenizer.json: the tokenizer has 2.. tokens and .* the model has 260"),
        ({"vocab_size": None}, "config.json: vocab_size must be a number"),
        ({"vocab_size": 321}, "theirs: .*size mismatch"),
        ({"hidden_act": "gelu", "activation_function": "relu"}, "theirs: .* is not supported"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_model_of_text_that_does_not_fit_is_refused(theirs_of_text, tmp_path, change, message):
    folder = theirs_of_text[2]
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_model_of_text_without_its_files_is_refused(theirs_of_text, tmp_path):
    folder = theirs_of_text[2]
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="theirs has no .safetensors files"):
        convert(folder, tmp_path / "ours")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json: no such file; tokenizers in other files"):
        convert(folder, tmp_path / "ours")
