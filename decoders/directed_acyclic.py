"""One pass gives a graph of places; each path through it is a sequence, so that whole sentences compete, not words.

Huang et al., "Directed Acyclic Transformer for Non-Autoregressive Machine Translation" (arXiv 2205.07459). Edges lead
from each place to later ones, with probabilities. The first place and the last are silent: there, paths begin and end.
A decoder of one law a place must mix sentences that are equally good; here they are different paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.decoders.base import Output
from zoo.decoders.conditioning import Conditions
from zoo.decoders.parallel import ParallelConfig, ParallelDecoder, drawn, in_line, inside
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Recorder, Result
from zoo.decoders.state import State

NEVER: Final = -1e30  # log-probability of what can't be; finite, as gradients of infinite ones are NaN


@dataclass(frozen=True, kw_only=True)
class DirectedAcyclicConfig(ParallelConfig):
    """Shape of a directed acyclic decoder.

    Attributes:
        links: Heads that say where edges lead; each place weighs them.
    """

    links: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.links < 1 or self.transformer.width % self.links:
            raise ValueError(f"width {self.transformer.width} doesn't divide into {self.links} heads of links")


class DirectedAcyclicDecoder(ParallelDecoder):
    """A parallel decoder with edges between its places; codes of one place are independent of each other."""

    config_class: ClassVar[type[DirectedAcyclicConfig]] = DirectedAcyclicConfig

    def __init__(self, config: DirectedAcyclicConfig):
        super().__init__(config)
        self.links = Links(config.transformer.width, config.links)
        # Places that begin alike stay alike: each says a bit of every sentence, and none comes to stand for one.
        for product in (self.heads.product, self.links.qk):
            nn.init.normal_(product.weight, std=config.transformer.width**-0.5)
        self._counted()

    def nats(
        self,
        codes: Int[Tensor, "R S Q"],
        cond: Conditions,
        glance: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "R"]:
        """As of every parallel decoder: over all paths. Its memory grows with codes x places squared.

        Args:
            glance: In training, first show so many of the codes: this share of how many are found wrong when none is
                shown, on the most probable path (Qian et al., arXiv 2008.07905); the paper goes from 0.5 to 0.1.
            generator: On the CPU; chooses which.
        """
        state = self.init_state(len(codes), 0, cond)
        tokens = self.glance(codes, state, glance, generator) if glance else None
        output = self.fill(state) if tokens is None else self(tokens, state=state)
        places, lengths = self.places(state), (codes[..., 0] >= 0).sum(1)
        return path_nats(emissions(output.logits, codes), self.links(output.hidden, places), places, lengths)

    @torch.no_grad()
    def glance(
        self, codes: Int[Tensor, "R S Q"], state: State, share: float, generator: torch.Generator | None
    ) -> Int[Tensor, "R N Q"]:
        """Tokens of the places when some codes are shown where the most probable path has them; see `nats`."""
        output, places, there = self.fill(state), self.places(state), codes[..., 0] >= 0
        path = best_path(emissions(output.logits, codes), self.links(output.hidden, places), places, there.sum(1))
        found = output.logits.argmax(-1).gather(1, path[..., None].expand_as(codes))
        wrong = ((found != codes).any(-1) & there).sum(1, keepdim=True)
        turn = torch.rand(there.shape, generator=generator).to(codes.device).masked_fill(~there, torch.inf)
        shown = (turn.argsort(1).argsort(1) < (share * wrong).round()) & there
        masks = torch.tensor(self.config.cards, device=codes.device)
        tokens = masks.repeat(*output.logits.shape[:2], 1)
        index = path.where(shown, 0)[..., None].expand_as(codes)  # the first place is silent and stays masked
        return tokens.scatter_(1, index, codes.where(shown[..., None], masks))

    @torch.no_grad()
    def generate(
        self, cond: Conditions, law: Law | None = None, noise: Noise | None = None, lookahead: bool = True
    ) -> Result:
        """As of every parallel decoder.

        Args:
            lookahead: From each place, go where edge and token together are the most probable; else, where the edge
                alone is.
        """
        rows = len(next(iter(cond.given.values())))
        recorder, state = Recorder(rows), self.init_state(rows, 0, cond)
        output, places = self.fill(state), self.places(state)
        tokens, logp = drawn(output.logits, law, noise)
        onward = self.links(output.hidden, places)
        if lookahead:
            onward = onward + _of_tokens(output, tokens)[:, None]
        return in_line(tokens, logp, follow(onward, places), recorder)


class Links(nn.Module):
    """Where edges lead: attention to later places, of several heads that each place weighs."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(width, 2 * width, bias=False)
        self.weights = nn.Linear(width, heads)

    def forward(self, hidden: Float[Tensor, "R N D"], places: Int[Tensor, "R"]) -> Float[Tensor, "R N N"]:
        """Log-probability of each edge, float32; `NEVER` where there is none: back, or beyond a row's places."""
        q, k = self.qk(hidden).float().unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        none = (place <= place[:, None]) | ~inside(places, len(place))[:, None]
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(none[:, None], NEVER)
        weights = self.weights(hidden).float().log_softmax(-1).mT[..., None]
        return (scores.log_softmax(-1) + weights).logsumexp(1).masked_fill(none, NEVER)


def emissions(logits: Float[Tensor, "R N Q V"], codes: Int[Tensor, "R S Q"]) -> Float[Tensor, "R S N"]:
    """Log-probability of the codes of each step at each place."""
    logp, index = logits.log_softmax(-1), codes.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1, -1)
    books = [logp[:, :, book].gather(-1, index[..., book]) for book in range(codes.shape[2])]
    return torch.stack(books).sum(0).mT


def path_nats(
    emitted: Float[Tensor, "R S N"],
    onward: Float[Tensor, "R N N"],
    places: Int[Tensor, "R"],
    lengths: Int[Tensor, "R"],
) -> Float[Tensor, "R"]:
    """Minus the log-probability of a sequence, over all paths; infinite, without gradient, where there is none.

    Args:
        emitted: See `emissions`.
        onward: Log-probability of edges, `NEVER` where there is none.
        places, lengths: Of each row's graph and sequence.
    """
    behind = torch.stack(_reached(emitted, onward, lambda ways: ways.logsumexp(1)), 1)
    row, last = torch.arange(len(places), device=places.device), (places - 1).clamp(min=0)
    total = (behind[row, lengths] + onward[row, :, last]).logsumexp(1)
    return (-total).masked_fill(total < NEVER / 2, torch.inf)


def best_path(
    emitted: Float[Tensor, "R S N"],
    onward: Float[Tensor, "R N N"],
    places: Int[Tensor, "R"],
    lengths: Int[Tensor, "R"],
) -> Int[Tensor, "R S"]:
    """The place of each step on the most probable path (Viterbi); the last place behind a row's end."""
    behind = _reached(emitted, onward, lambda ways: ways.amax(1))
    row, at, path = torch.arange(len(places), device=places.device), (places - 1).clamp(min=0), []
    for step in range(emitted.shape[1], 0, -1):
        before = (behind[step] + onward[row, :, at]).argmax(1)
        at = torch.where(step <= lengths, before, at)
        path.append(at)
    return torch.stack(path[::-1], 1)


def follow(onward: Float[Tensor, "R N N"], places: Int[Tensor, "R"]) -> Tensor:
    """bool `[R, N]`, the places that speak on the path of the best edges, from the first place to the last."""
    row, last = torch.arange(len(places), device=places.device), (places - 1).clamp(min=0)
    best, at = onward.argmax(-1), torch.zeros_like(last)
    passed = torch.zeros(onward.shape[:2], dtype=torch.bool, device=places.device)
    for _ in range(onward.shape[1]):
        at = torch.where(at < last, best[row, at], last)
        passed[row, at] = True
    return passed.scatter(1, last[:, None], False)


def _reached(
    emitted: Float[Tensor, "R S N"], onward: Float[Tensor, "R N N"], join: Callable[[Tensor], Tensor]
) -> list[Float[Tensor, "R N"]]:
    """Log-probability to be at each place behind 0, 1, ... S steps, having said them; `join` sums up the ways there."""
    first = torch.arange(onward.shape[1], device=onward.device) == 0
    reached = [torch.where(first, 0.0, NEVER).to(onward.dtype).expand(len(onward), -1)]
    for step in emitted.unbind(1):
        reached.append(join(reached[-1][:, :, None] + onward) + step)
    return reached


def _of_tokens(output: Output, tokens: Int[Tensor, "R N Q"]) -> Float[Tensor, "R N"]:
    """Log-probability of the tokens under the model's own law."""
    return output.logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].sum(-1)
