"""Whatever drafts, judges or bends the law is a word on the command line, and every wrong word is one line of help."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from command_line import one_line
from small_generators import (
    CELL_SIZES,
    PICTURE_FACTS,
    SHAPES,
    answering,
    core,
    picture_decoder,
    save_picture_codec,
    text_decoder,
)

import zoo
from zoo import acceptance_training, checkpoint, generation_drafts
from zoo.codecs.errors import UserError
from zoo.decoders.acceptance import AcceptanceHead
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig, Conditions
from zoo.decoders.layouts import Parallel, Raster
from zoo.decoders.sampling import Law, Noise, decode, proposers, rules
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.processors import Mirostat
from zoo.generation_drafts import GRAMMARS, PROCESSORS, PROPOSERS, drafter, processors_for, rule_for
from zoo.generation_text import decoded
from zoo.token_facts import TokenFacts
from zoo.vocabulary import Vocabulary


def raster_decoder(weights: str):
    """Draws cell by cell, the codes of a cell at once."""
    layout = Raster(CELL_SIZES, begin=True)
    inner = AutoregressiveConfig(layout.cards, core(axes=2, adaptive=16), 64, specials=layout.specials)
    model = ConditionedAutoregressive(ConditionedConfig(ConditionConfig(16, classes=3, pooled=("labels",)), inner))
    return answering(model, TokenFacts(layout, **(PICTURE_FACTS | {"weights": weights})))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("pictures", "write", "draft", "brief", "rows")}
    cells = save_picture_codec(found["pictures"])
    decoders = {"write": text_decoder(), "draft": text_decoder(seed=1), "rows": raster_decoder(cells)}
    decoders["brief"] = text_decoder(layers=1)
    for name, decoder in decoders.items():
        checkpoint.save(decoder, found[name])
    head = AcceptanceHead(16, 1, inner=4)
    found["head"], found["source"] = folder / "head.safetensors", folder / "source.txt"
    head.save(found["head"])
    found["source"].write_text("abcabc")
    return SimpleNamespace(**found)


WORDS = {
    "bandit": "bandit:0.5+ngram+draft:{draft},confident=.3",
    "copyspec": "copyspec:1+draft:{draft}",
    "draft": "draft:{draft},confident=0.2",
    "dyspec": "dyspec:{draft},least=0.05",
    "early-exit": "early-exit:1,confident=.1",
    "exp3": "exp3:rate=2+ngram+recycling:2",
    "heads": None,  # see their own tests
    "input-copy": "input-copy:{source}+ngram",
    "jacobi": "jacobi:last",
    "lookahead": "lookahead:2",
    "ngram": "ngram:3,1",
    "opt-tree": "opt-tree:{draft},width=2",
    "phrases": "phrases:2,1+draft:{draft}",
    "recycling": "recycling:3,.5",
    "specdec": "specdec:{draft},head={head},threshold=.4",
    "staged": "staged:{draft}+ngram:2",
    "suffix-automaton": "suffix-automaton:2+ngram",
    "swift": None,  # needs more layers than these have
    "trigram": "trigram:3",
}


@pytest.mark.parametrize("name", PROPOSERS)
def test_every_proposer_has_a_word_and_changes_nothing(made, name):
    assert set(WORDS) == set(PROPOSERS)
    if WORDS[name] is None:
        return
    asked = dict(prompt="abcabcab", steps=24, seed=3, temperature=0.5)
    found = zoo.generate(made.write, proposer=WORDS[name].format(**vars(made)), window=6, **asked)
    assert found.text == zoo.generate(made.write, **asked).text and found.exactness == "identical"
    assert found.facts()["accepted_length"] is not None or name in ("trigram", "copyspec")


def test_words_become_settings(made):
    decoder = zoo.load(made.write)

    def of(word):
        return drafter(decoder, word.format(**vars(made)))(None)

    assert of("ngram:longest=3,shortest=2") == proposers.NGram(3, 2) == of("ngram:3,2")
    tree = of("opt-tree:{draft},gain=0.2,width=3")
    assert (tree.width, tree.gain, type(tree)) == (3, 0.2, proposers.OptTree)
    both = of("exp3:2+ngram+suffix-automaton:3")
    assert isinstance(both, proposers.Exp3) and both.rate == 2.0 and both.arms[1].shortest == 3
    copies = of("input-copy:{source}+draft:{draft}")
    assert copies.source[:, 0].tolist() == list(b"abcabc") and isinstance(copies.fallback, proposers.DraftModel)
    assert of("early-exit:2").depths == (0, 1) and of("jacobi:block=4").block == 4
    assert of("staged:{draft}").proposer == proposers.NGram() and of("specdec:{draft},head={head}").confident == 0.5
    rule = rule_for("typical:0.2,delta=0.5")
    assert (type(rule), rule.epsilon, rule.delta) == (rules.Typical, 0.2, 0.5) and rule_for("top_k:3").k == 3
    assert [type(rule_for(name)) for name in rules.RULES] == [type(rule) for rule in rules.RULES.values()]
    bent = processors_for(decoder, ["mirostat:4,rate=0.2", Mirostat(2.0), "no-repeat:2", "json:{}", "repetition:1.5,9"])
    assert bent[0] == Mirostat(4.0, 0.2) and bent[2].length == 2 and bent[3].kind == "json" and bent[4].window == 9


def test_a_draft_model_is_drafted_for_by_its_own_parts(made):
    """It has more layers than the target."""
    target, asked = zoo.load(made.brief), dict(prompt="abcabcab", steps=24, seed=3)
    found = zoo.generate(target, proposer=f"staged:{made.write}+early-exit:2", window=4, **asked)
    assert found.text == zoo.generate(target, **asked).text
    made_of = drafter(target, f"staged:{made.write}+early-exit:2")(None)
    assert made_of.proposer.depths == (0, 1) and made_of.model.info.layers == 2


def test_each_row_gets_a_proposer_of_its_own_and_models_are_read_once(made):
    make = drafter(zoo.load(made.write), f"bandit+draft:{made.draft}+opt-tree:{made.draft}")
    first, second = make(None), make(None)
    assert first is not second and first.arms[0] is not second.arms[0]
    assert first.arms[0].model is second.arms[1].model


def test_the_law_bends_as_it_is_told(made):
    asked = dict(prompt="ab", steps=30, temperature=0.5, seed=2)
    plain = zoo.generate(made.write, **asked).text[0]
    assert len(set(plain)) < 30
    alone = zoo.generate(made.write, processors=["no-repeat:1"], **asked).results[0].codes[0, :, 0].tolist()
    assert len(set(alone)) == len(alone)
    text = zoo.generate(made.write, processors=["regex:[xyz]{3,5}", "mirostat:2"], **asked).text[0]
    assert 3 <= len(text[2:]) <= 5 and set(text[2:]) <= set("xyz")
    against = zoo.generate(made.write, against=f"{made.draft},weight=0.5", **asked)
    assert against.text[0] != plain and against.exactness == "identical"
    drafted = zoo.generate(made.write, against=f"{made.draft},weight=0.5", proposer="jacobi", window=3, **asked)
    assert drafted.text == against.text and drafted.facts()["passes"] < 30
    least = zoo.generate(made.write, search="contrastive:4", **asked)
    assert least.text[0] != plain and least.facts()["passes"] >= 30


def test_a_context_counts_by_what_it_changes(made, run, tmp_path):
    """Shi et al. (arXiv 2305.14739): the logits behind context and prompt, less a share of those behind the prompt."""
    model, vocabulary, text, prompt = zoo.load(made.write), Vocabulary(), "abc zz ", "ab"
    long, brief = (torch.tensor(vocabulary.encode(part))[None, :, None] for part in (text + prompt, prompt))
    begin = long.shape[1]
    for step in range(begin, begin + 12):
        logits = 4 * model(long).logits[:, -1:] - 3 * model(brief).logits[:, -1:]
        gumbel = Noise(2, rows=(0,)).gumbel(torch.tensor([[step]]), *logits.shape[2:])
        token = draw(Law(temperature=0.8)(logits), gumbel)
        long, brief = torch.cat((long, token), 1), torch.cat((brief, token), 1)
    expected = prompt + decoded(vocabulary, long[0, begin:, 0].tolist())
    file = tmp_path / "context.txt"
    file.write_text(text)
    words = ("--prompt", prompt, "--steps", 12, "--seed", 2, "--context-weight", 3, "--context")
    for given in (text, file):
        assert run("generate", made.write, *words, given)[:2] == (0, expected + "\n")
    asked = dict(prompt=prompt, steps=12, seed=2, context=text)
    for proposer in ("ngram", "jacobi", "early-exit:1", f"draft:{made.draft}", f"opt-tree:{made.draft}"):
        drafted = zoo.generate(made.write, proposer=proposer, window=4, context_weight=3, count=2, **asked)
        assert drafted.text[0] == expected and drafted.exactness == "identical", proposer
    less = zoo.generate(made.write, **asked).text
    assert less == zoo.generate(made.write, context_weight=0.5, **asked).text != (expected,)
    greedy = zoo.generate(made.write, temperature=0, **asked)
    assert zoo.generate(made.write, search="beam:1,patience=1", **asked).text == greedy.text


def test_the_prompt_alone_is_read_under_the_same_condition():
    vocabulary = Vocabulary()
    inner = AutoregressiveConfig((vocabulary.card,), core(), 64, head_bias=True)
    model = ConditionedAutoregressive(ConditionedConfig(ConditionConfig(16, classes=2, way="prefix"), inner))
    answering(model, TokenFacts(Parallel((vocabulary.card,)), vocabulary))
    with torch.no_grad():
        model.decoder.heads.product.bias[256] -= 100.0  # it goes on
    found = zoo.generate(model, prompt="ab", context="xy", label=1, steps=8, temperature=0, context_weight=2.0, count=2)
    codes = found.results[0].codes[0, :, 0]
    behind = []
    for text in ("xyab", "ab"):
        tokens = torch.tensor([*text.encode(), *codes.tolist()])[None, :, None]
        state = model.init_state(1, 0, Conditions(labels=torch.tensor([1])))
        behind.append(model(tokens, state=state).logits[0, len(text) - 1 : -1, 0])
    assert torch.equal((3.0 * behind[0] - 2.0 * behind[1]).argmax(-1), codes)


def test_the_law_is_truncated_as_it_is_told(made, run):
    asked = dict(prompt="ab", steps=30, seed=2)
    plain, prompt = zoo.generate(made.write, **asked).text[0], torch.tensor(list(b"ab"))[None, :, None]
    for option, truncation in (("--min-p", dict(min_p=0.2)), ("--typical", dict(typical=0.3))):
        text = zoo.generate(made.write, **asked, **truncation).text[0]
        law = Law(temperature=0.8, **truncation)
        found = decode(zoo.load(made.write), prompt, 30, law, Noise(2, rows=(0,)), stop=256)
        assert text == "ab" + decoded(Vocabulary(), found.codes[0, :, 0].tolist()) != plain
        value = next(iter(truncation.values()))
        out = run("generate", made.write, "--prompt", "ab", "--steps", 30, "--seed", 2, option, value)[1]
        assert out == text + "\n"


class Watched(proposers.Jacobi):
    """Remembers, of each code of the first row of which nothing was known, and of the code that it was to copy."""

    copies: list[tuple[int, int]] = []
    back = 0  # steps

    def propose(self, ctx, n):
        draft, length, known = super().propose(ctx, n), int(ctx.length[0]), int(self._holds[0])
        line = torch.cat((ctx.tokens[0, :length], draft.tokens[0]))
        for step in range(length + known, length + draft.slots):
            if self._near[step].max() >= 0:
                slot = int(self._near[step].argmax())
                self.copies.append((int(line[step, slot]), int(line[step - self.back, slot])))
        return draft


CELLS_BACK = {"left": 1, "above": PICTURE_FACTS["grid"][1]}


@pytest.mark.parametrize("guess", CELLS_BACK)
@pytest.mark.parametrize("kind", ["one code", "padded steps", "cells"])
def test_pictures_are_guessed_from_the_cell_before_and_stay_the_same(made, guess, kind, monkeypatch):
    """Cells in whole steps; in steps of a code each; and in such steps as a decoder of one codebook sees them."""
    decoder = zoo.load(made.rows)
    if kind != "cells":
        decoder = picture_decoder(decoder.tokens.weights)
    monkeypatch.setitem(generation_drafts.proposers.NAMES, "jacobi", Watched)
    monkeypatch.setattr(generation_drafts, "Jacobi", Watched)
    monkeypatch.setattr(Watched, "copies", [])
    monkeypatch.setattr(Watched, "back", CELLS_BACK[guess] * (1 if kind == "cells" else 2))
    asked = dict(label="star", codec=made.pictures, count=2, seed=1, temperature=0.3)
    if kind == "padded steps":
        asked["processors"] = [Mirostat(4.0)]  # looks at all codebooks
    plain = zoo.generate(decoder, **asked)
    for proposer in (f"jacobi:{guess}", f"jacobi:{guess},block=9", f"bandit+jacobi:{guess}+ngram"):
        found = zoo.generate(decoder, proposer=proposer, window=10, **asked)
        assert found.exactness == "identical"
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(found.tokens, plain.tokens, strict=True))
    assert len(Watched.copies) > 20 and all(guessed == copied for guessed, copied in Watched.copies)


def test_a_row_of_codes_has_nothing_above(made, capsys):
    begun = ("generate", made.write, "--prompt", "ab", "--steps", "4", "--proposer")
    assert "has this axis, not (6,); take random or last" in one_line(capsys, *begun, "jacobi:above")
    asked = dict(prompt="ab", steps=20, temperature=0.5)
    found = zoo.generate(made.write, proposer="jacobi:left", **asked)
    assert found.text == zoo.generate(made.write, **asked).text


def test_rows_of_a_picture_are_drawn_side_by_side(made, run, tmp_path):
    plain = zoo.generate(made.rows, label="star", codec=made.pictures, seed=1)
    whole = zoo.generate(made.rows, label="star", codec=made.pictures, seed=1, zipar=PICTURE_FACTS["grid"][1])
    assert torch.equal(whole.tokens[0].codes, plain.tokens[0].codes) and whole.exactness == "approximate"
    guided = [
        zoo.generate(made.rows, label=SHAPES[0], codec=made.pictures, count=2, guidance=2.0, zipar=window).tokens
        for window in (None, 4)
    ]
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(*guided, strict=True))
    code, out, err = run(
        "generate",
        made.rows,
        "--codec",
        made.pictures,
        "--class",
        "star",
        "--zipar",
        1,
        "-o",
        tmp_path / "a.png",
        "--json",
    )
    assert (code, err, json.loads(out)["passes"]) == (0, "", 4 + 2)


def test_cells_of_several_steps_are_drawn_side_by_side_as_well(made):
    flat = picture_decoder(zoo.load(made.rows).tokens.weights)
    asked = dict(label="star", codec=made.pictures, count=2, guidance=2.0, seed=1)
    plain, whole, near = (zoo.generate(flat, zipar=window, **asked) for window in (None, 4, 1))
    for ours, theirs in zip(whole.tokens, plain.tokens, strict=True):
        assert torch.equal(ours.codes, theirs.codes)
    assert near.facts()["passes"] == 2 * (4 + 2) and near.exactness == "approximate"
    assert all((each.codes >= 0).all() for each in near.tokens)


def test_a_conditioned_decoder_exits_early_as_well(made):
    flat = picture_decoder(zoo.load(made.rows).tokens.weights)
    asked = dict(label="star", codec=made.pictures, guidance=2.0, seed=1)
    plain = zoo.generate(flat, **asked)
    whole = zoo.generate(flat, proposer="early-exit:2", window=3, **asked)  # both layers: drafts are always right
    early = zoo.generate(flat, proposer="early-exit:1", window=3, **asked)
    for found in (whole, early):
        assert torch.equal(found.tokens[0].codes, plain.tokens[0].codes) and found.exactness == "identical"
    assert whole.facts()["passes"] == 24 // 4 < early.facts()["passes"]


REFUSED = {
    "a near name": (["--proposer", "ngrm"], "no proposer 'ngrm'; did you mean 'ngram'?"),
    "a near setting": (["--proposer", "ngram:longst=2"], "no setting 'longst'; did you mean 'longest'?"),
    "too many settings": (["--proposer", "ngram:3,2,1"], "takes longest, shortest; '3,2,1' is more than that"),
    "settings of none": (["--proposer", "ngram", "--rule", "equal:1"], "takes no settings; '1' is more than that"),
    "a setting twice": (["--proposer", "ngram:3,longest=2"], "gets longest twice"),
    "no number": (["--proposer", "ngram:x"], "the setting longest of the proposer ngram is 'x'; give a whole number"),
    "no share": (["--proposer", "dyspec:{draft},least=x"], "is 'x'; give a number"),
    "out of range": (["--proposer", "ngram:1,2"], "matches of 2 to 1 steps"),
    "no model": (["--proposer", "opt-tree"], "name the model that drafts, too: opt-tree:MODEL"),
    "no such model": (["--proposer", "draft:none"], "no model 'none'"),
    "no head": (["--proposer", "specdec:{draft}"], "specdec:{draft},head=FILE, made by `python -m zoo.acceptance_tr"),
    "no head in it": (["--proposer", "specdec:{draft},head={source}"], "holds no acceptance head"),
    "no arms": (["--proposer", "bandit"], "name what bandit is to choose among: bandit+ngram+jacobi"),
    "no part": (["--proposer", "phrases"], "is made of one more proposer, not of 0; write phrases+draft:MODEL"),
    "a wrong part": (["--proposer", "bandit+ngram+jacoby"], "no proposer 'jacoby'; did you mean 'jacobi'?"),
    "parts of none": (["--proposer", "ngram+jacobi"], "the proposer ngram is not made of others; leave +jacobi out"),
    "no layers": (["--proposer", "early-exit"], "say behind how many layers to exit: early-exit:2"),
    "more than all layers": (["--proposer", "early-exit:99"], "early-exit:99: the decoder has 2 layers; give 1 .. 2"),
    "more layers than a draft has": (
        ["--proposer", "staged:{brief}+early-exit:2"],
        "early-exit:2: the draft model {brief} has 1 layers; give 1 .. 1",
    ),
    "less than a layer": (["--proposer", "early-exit:0"], "early-exit:0: the decoder has 2 layers; give 1 .. 2"),
    "no heads": (["--proposer", "heads"], "name the heads that draft, too: heads:NAME"),
    "a tree for chains": (["--proposer", "opt-tree:{draft}", "--rule", "rejection"], "OptTree drafts trees, which the"),
    "a near rule": (["--proposer", "ngram", "--rule", "rejecton"], "no rule 'rejecton'; did you mean 'rejection'?"),
    "a rule out of range": (["--proposer", "ngram", "--rule", "lenient:2"], "the lenience is 2.0; expected more than"),
    "a near processor": (["--processor", "mirostad:3"], "no processor 'mirostad'; did you mean 'mirostat'?"),
    "a processor out of range": (["--processor", "mirostat:-3"], "surprise -3.0 and rate 0.1; expected bits"),
    "no grammar": (["--processor", "regex"], "say what the text is to keep to: regex:TEXT, or regex:FILE"),
    "a grammar without end": (["--processor", 'lark:start: "a" start'], "always needs itself again, and never ends"),
    "a grammar that is too long": (["--processor", "regex:a{{30}}", "--json"], "was not at its end after 5 tokens; gi"),
    "against nobody": (["--against", "none"], "no model 'none'"),
    "against in a wrong way": (["--against", "{draft},wight=2"], "no setting 'wight'; did you mean 'weight'?"),
    "against too much": (["--against", "{draft},weight=-2"], "weight -2.0, plausible 0.1; expected more than 0"),
    "a weight of no context": (["--context-weight", "1"], "means nothing for a prompt without a context; leave"),
    "a context of no weight": (["--context", "a", "--context-weight", "0"], "context's weight is 0.0; give a number"),
    "a context of nothing": (["--context", ""], "the context is empty; give what the text is to rest on, or leave it"),
    "a context that is nowhere": (["--context", "none.txt"], "none.txt: is no file; name one that holds the context"),
    "a context and another": (["--context", "a", "--against", "{draft}"], "and another decoder do; take one of them"),
    "a long context": (["--context", "a" * 60], "the prompt with its context has 64 tokens and the decoder room for"),
    "rows of text": (["--zipar", "2"], "this one's layout is Parallel, of text: leave zipar out"),
    "rows and drafts": (["--zipar", "2", "--proposer", "ngram"], "proposer means nothing for rows side by side"),
    "a search and drafts": (["--search", "contrastive:4", "--proposer", "ngram"], "means nothing for a search"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_one_line(made, what, capsys):
    arguments, message = REFUSED[what]
    arguments = [argument.format(**vars(made)) for argument in arguments]
    asked = ("generate", made.write, "--prompt", "abab", "--steps", "5", "-o", "-", *arguments)
    assert message.format(**vars(made)) in one_line(capsys, *asked)


def test_pictures_refuse_what_is_for_text_and_processors_side_by_side(made, tmp_path):
    picture = tmp_path / "a.png"
    zoo.generate(made.rows, picture, codec=made.pictures)
    for asked, message in (
        (dict(processors=["regex:a"]), "a regex grammar is for decoders of text"),
        (dict(proposer=f"input-copy:{made.source}"), "a text to copy from is for decoders of text"),
        (dict(processors=["no-repeat:3"], zipar=2), r"has processors \(NoRepeat\), which look at all that stands"),
        (dict(context="a"), "context means nothing for pictures"),
        (dict(zipar=2, prompt=picture, size=(24, 16)), "rows side by side are of whole pictures; leave the prompt out"),
        (dict(against=str(made.draft)), "is of another layout"),
    ):
        with pytest.raises(UserError, match=message):
            zoo.generate(made.rows, codec=made.pictures, **asked)


def test_the_help_names_every_part(run):
    _, out, _ = run("generate", "--help")
    text = out.replace("\n", " ")
    for name in (*PROPOSERS, *rules.RULES, *PROCESSORS, *GRAMMARS):
        assert name in text, name


def test_a_head_is_trained_and_used(made, tmp_path, monkeypatch, capsys):
    path = tmp_path / "head.safetensors"
    arguments = [str(made.write), str(made.draft), "-o", str(path), "--prompt", "ab", "ba", "--steps", "20"]
    monkeypatch.setattr(sys, "argv", ["", *arguments, "--count", "2", "--updates", "5"])
    acceptance_training.main()
    assert f"{path}: a head for {made.draft}, which drafts for {made.write}, of " in capsys.readouterr().out
    found = zoo.generate(made.write, prompt="ab", steps=20, proposer=f"specdec:{made.draft},head={path},threshold=.9")
    assert found.text == zoo.generate(made.write, prompt="ab", steps=20).text
    with pytest.raises(UserError, match="no step that was judged; .*; ask for more steps"):
        acceptance_training.train_head(zoo.load(made.write), str(made.draft), ["ab"], steps=1)
