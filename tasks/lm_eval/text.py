"""A model as lm-eval sees one: scores of texts, and texts that go on.

Texts become tokens as lm-eval's own `hf` model makes them: a context's trailing spaces belong to the continuation, both
are encoded as one text and then split, an empty context is the token that begins a text, what is too long loses its
left end, and rolling windows do not overlap. What the tokens score is asked of the adapter, which pads so that no token
of a row ever sees padding, whatever its attention is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ...adapters.base import Adapter, Capability, Continuation, UnsupportedError
from ...results.foreign import parse_json
from .generation import Decoding, Endings, decoding_of

if TYPE_CHECKING:
    from torch import Tensor

Tokens: TypeAlias = list[int]
Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)


class Request(Protocol):
    """What lm-eval asks."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Texts and settings."""
        ...


@dataclass
class TextModel:
    """An adapter and its tokenizer, with what lm-eval's evaluation needs of a model.

    Attributes:
        adapter: The model.
        tokenizer: A tokenizer of transformers.
        end_tokens: Tokens that end a generation, besides the tokenizer's own.
        batch_size: Rows of a forward pass.
        seed: Seed of sampling.
        halves: Halve the batch when memory runs out, and go on with what is not done.
    """

    adapter: Adapter
    tokenizer: Any
    end_tokens: frozenset[int] = frozenset()
    batch_size: int = 8
    seed: int = 1234
    halves: bool = False

    @property
    def max_length(self) -> int:
        """Most tokens that a forward pass reads."""
        return self.adapter.shape.context_length

    @cached_property
    def prefix_token(self) -> int:
        """The token that stands before a text that has no context."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

    @property
    def rank(self) -> int:
        """This process among those that share the requests: the only one."""
        return 0

    @property
    def world_size(self) -> int:
        """How many processes share the requests."""
        return 1

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Log-probability in nats of each (context, continuation), and whether greedy decoding would give it."""
        scores = self._score([self._encode_pair(*request.args) for request in requests])
        return [(score.loglikelihood_nats, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Request]) -> list[float]:
        """Log-probability in nats of each whole text.

        Windows run in the order of the texts, as with lm-eval's own model: in bfloat16 another batch rounds otherwise.
        """
        windows = [self._windows(*request.args) for request in requests]
        queue = [window for of_text in windows for window in of_text]
        done: list[Continuation] = []
        while len(done) < len(queue):
            done += self._fitting(partial(self._score_from, queue, len(done)))
        scores = iter(done)
        return [sum(next(scores).loglikelihood_nats for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """What each (context, generation settings) goes on with, up to a stop string; same settings run together.

        Raises:
            UnsupportedError: The model cannot generate, or a setting asks for what we do not do.
        """
        if Capability.GENERATE not in self.adapter.capabilities:
            raise UnsupportedError("this model cannot generate")
        groups: dict[Decoding, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(decoding_of(request.args[1], self._end_of_text), []).append(index)
        texts: dict[int, str] = {}
        for decoding, indices in groups.items():
            contexts = [requests[index].args[0] for index in indices]
            texts |= dict(zip(indices, self._generate(contexts, decoding), strict=True))
        return [texts[index] for index in range(len(requests))]

    def encode(self, text: str, add_special_tokens: bool | None = None) -> Tokens:
        """Token ids; None adds the special tokens that the tokenizer adds, unless the text begins with one."""
        if add_special_tokens is None and text.startswith(self._prefix):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        tokens: Tokens = self.tokenizer.encode(text, **options)
        return tokens

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the prompt that the model was trained on.

        A template that knows no system role gets the conversation without it, as with lm-eval's own models.
        """
        from jinja2.exceptions import TemplateError

        def render(chosen: Sequence[Mapping[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    list(chosen),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return render(messages)
        except TemplateError:
            _LOG.warning("the chat template refuses the conversation; it is given without its system message")
            return render([message for message in messages if message["role"] != "system"])

    @cached_property
    def _prefix(self) -> str:
        return str(self.tokenizer.decode(self.prefix_token))

    @cached_property
    def _end_of_text(self) -> str:
        return str(self.tokenizer.decode(self.tokenizer.eos_token_id, skip_special_tokens=False))

    def _encode_pair(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        if not context:
            tokens = self.encode(continuation, add_special_tokens=False)
            if tokens[:1] == [self.prefix_token]:
                return tokens[:1], tokens[1:]
            return [self.prefix_token], tokens
        kept = context.rstrip()
        whole = self.encode(context + continuation)
        before = self.encode(kept)
        return before, whole[len(before) :]

    def _windows(self, text: str) -> list[tuple[Tokens, Tokens]]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self.encode(text), prefix_token=self.prefix_token, max_seq_len=self.max_length, context_len=1
        )
        return [make_disjoint_window(window) for window in windows]

    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Continuation]:
        cut = sum(len(context) + len(continuation) > self.max_length + 1 for context, continuation in pairs)
        if cut:
            _LOG.warning("%d of %d requests lose their left end: more than %d tokens", cut, len(pairs), self.max_length)
        return self._fitting(lambda batch_size: self.adapter.loglikelihood(pairs, batch_size))

    def _score_from(self, queue: Sequence[tuple[Tokens, Tokens]], start: int, batch_size: int) -> list[Continuation]:
        return self.adapter.loglikelihood(queue[start : start + batch_size], batch_size)

    def _room(self, decoding: Decoding) -> int:
        """Tokens that a prompt may have."""
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise UnsupportedError(
                f"{decoding.max_new_tokens} new tokens leave no room for a prompt in {self.max_length} tokens; set a "
                "larger max_length, or fewer max_gen_toks"
            )
        return room

    def _generate(self, contexts: Sequence[str], decoding: Decoding) -> list[str]:
        """What each context goes on with; longest first and those of one length by their text, as with lm-eval."""
        room, whole = self._room(decoding), [self.encode(context) for context in contexts]
        order = sorted(range(len(contexts)), key=lambda index: (-len(whole[index]), contexts[index]))
        prompts = [tokens[-room:] for tokens in whole]
        texts: dict[int, str] = {}
        while rest := order[len(texts) :]:
            texts |= self._fitting(partial(self._next_batch, rest, prompts, decoding))
        return [texts[index] for index in range(len(contexts))]

    def _next_batch(
        self, rest: Sequence[int], prompts: Sequence[Tokens], decoding: Decoding, batch_size: int
    ) -> dict[int, str]:
        chosen = rest[:batch_size]
        inputs, mask = _pad_left([prompts[index] for index in chosen], self.adapter.device)
        endings = Endings(self.tokenizer, decoding, self.end_tokens | {self.tokenizer.eos_token_id}, len(chosen))
        made = self.adapter.generate(
            inputs,
            mask,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            seed=self.seed + chosen[0],
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            has_ended=endings,
        )
        return {index: endings.text(row) for index, row in zip(chosen, made.tolist(), strict=True)}

    def _fitting(self, run: Callable[[int], Result]) -> Result:
        import torch

        while True:
            try:
                return run(self.batch_size)
            except torch.OutOfMemoryError:
                if not self.halves or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                _LOG.warning("batch halved to %d after running out of memory", self.batch_size)


def text_model(adapter: Adapter, folder: Path, *, batch_size: int, seed: int, halves: bool = False) -> TextModel:
    """The text model of an adapter whose checkpoint is in `folder`."""
    return TextModel(adapter, load_tokenizer(folder), _end_tokens(folder), batch_size, seed, halves)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint, as transformers reads it: its special tokens and chat template matter here."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def model_length(folder: Path, tokenizer: Any) -> int:
    """Longest input of a checkpoint in tokens, found where lm-eval finds it; 2048 where nothing says."""
    from lm_eval.models.utils import resolve_max_length
    from transformers import AutoConfig

    return int(resolve_max_length(AutoConfig.from_pretrained(str(folder)), tokenizer))


def _end_tokens(folder: Path) -> frozenset[int]:
    """Tokens at which transformers' own generation would end."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        ends = parse_json(file.read_bytes()).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()


def _pad_left(rows: Sequence[Tokens], device: Any) -> tuple[Tensor, Tensor]:
    import torch

    width = max(map(len, rows))
    inputs = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    mask = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
    for place, row in enumerate(rows):
        inputs[place, width - len(row) :] = torch.as_tensor(row, device=device)
        mask[place, width - len(row) :] = True
    return inputs, mask
