"""A model as lm-eval sees one: log-likelihoods of texts, and generated continuations.

Texts are tokenized as by lm-eval's own `hf` model: a context's trailing spaces belong to the continuation, both are
encoded as one text and then split, an empty context is the token that begins a text, long inputs lose their left end,
and rolling windows do not overlap. The adapter scores the tokens; it pads so that no token of a row ever attends to
padding, whatever the attention is.

lm-eval's model fails on a request without a token to score, or without a token before it. Here such documents are
unscored and the others keep their scores; `TextModel.unscored` has the reasons. A context of white space alone becomes
part of the continuation, which is then scored without context; `TextModel.without_context` has these documents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

from ...adapters.base import Adapter, Capability, Continuation, UnsupportedError
from ...adapters.pretrained.tokenizer import load_tokenizer
from ...adapters.pretrained.weight_files import read_config, transformers_config
from ...results.foreign import parse_json
from ..data.pretrained_tokenizer import TextEnds
from ..heavy import Tensor, torch
from .generation import Decoding, Endings, decoding_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Tokens: TypeAlias = list[int]
Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
_NO_PREFIX = "the tokenizer has neither a BOS nor an EOS token, of which one stands before a text without context"


class UnscorableError(ValueError):
    """A request has no token to score, too many tokens to score, or no token before them."""


@dataclass
class TextModel:
    """An adapter and its tokenizer, with the methods that lm-eval's evaluation calls.

    Attributes:
        adapter: The model.
        tokenizer: A tokenizer of transformers.
        end_tokens: Tokens that end a generation, besides the tokenizer's own.
        batch_size: Rows of a forward pass.
        seed: Seed of sampling.
        halves: Whether to halve the batch when memory runs out, and go on with the remaining requests.
        share_context: Whether the context of several continuations is read once; otherwise batches are lm-eval's.
        unscored: Documents without a score and why, filled as requests come; None makes the first of them an error.
        without_context: Documents whose context is white space alone.
    """

    rank: ClassVar[int] = 0
    """This process among those that share the requests: the only one."""
    world_size: ClassVar[int] = 1

    adapter: Adapter
    tokenizer: Any
    end_tokens: frozenset[int] = frozenset()
    batch_size: int = 8
    seed: int = 1234
    halves: bool = False
    share_context: bool = True
    unscored: dict[int, str] | None = None
    without_context: set[int] = field(default_factory=set)

    @property
    def max_length(self) -> int:
        """Most tokens that a forward pass reads."""
        return self.adapter.shape.context_length

    @property
    def prefix_token(self) -> int:
        """The token before a text without context.

        Raises:
            UnscorableError: The tokenizer has none.
        """
        if self.ends is None:
            raise UnscorableError(_NO_PREFIX)
        return self.ends.prefix

    @cached_property
    def ends(self) -> TextEnds | None:
        """The special tokens at the ends of a text; None if the tokenizer has neither BOS nor EOS."""
        return ends_of(self.tokenizer, str(self.tokenizer.name_or_path))

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation of a context, and whether greedy decoding produces it.

        Raises:
            UnsupportedError: A request cannot be scored, and `unscored` is None.
        """
        found = [self._unless_unscorable(request, self._pair_of) for request in requests]
        pairs = [pair for pair in found if pair is not None]
        cut = sum(len(context) + len(continuation) > self.max_length + 1 for context, continuation in pairs)
        if cut:
            _LOG.warning("%d of %d requests lose their left end: more than %d tokens", cut, len(pairs), self.max_length)
        score = partial(self.adapter.loglikelihood, pairs, share_context=self.share_context)
        scores = iter(self._fitting(score))
        return [(0.0, False) if pair is None else _answer(next(scores)) for pair in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Log-probability in nats of each whole text.

        Windows run in the order of the texts, as in lm-eval's own model: in bfloat16 another batch rounds differently.

        Raises:
            UnsupportedError: A request cannot be scored, and `unscored` is None.
        """
        windows = [
            self._unless_unscorable(request, lambda request: self._windows(*request.args)) or [] for request in requests
        ]
        queue = [window for of_text in windows for window in of_text]
        done: list[Continuation] = []

        def next_batch(size: int) -> list[Continuation]:
            return self.adapter.loglikelihood(queue[len(done) : len(done) + size], size)

        while len(done) < len(queue):
            done += self._fitting(next_batch)
        scores = iter(done)
        return [sum(next(scores).loglikelihood_nats for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The continuation of each context by its generation settings, up to a stop string.

        Requests with equal settings are generated together.

        Raises:
            UnsupportedError: The model cannot generate, the tokenizer has no token that ends a text, a setting is not
                supported, or a prompt is empty and `unscored` is None.
        """
        if Capability.GENERATE not in self.adapter.capabilities:
            raise UnsupportedError("this model cannot generate")
        if self.tokenizer.eos_token_id is None:
            raise UnsupportedError(
                "the tokenizer has no EOS token, which ends a generated text in every task of lm-eval"
            )
        groups: dict[Decoding, list[int]] = {}
        for index, request in enumerate(requests):
            context, settings = cast("tuple[str, Any]", request.args)
            if not self._unless_unscorable(request, partial(self._prompt, context)):
                continue
            groups.setdefault(decoding_of(settings, self._end_of_text), []).append(index)
        texts: dict[int, str] = {}
        for decoding, indices in groups.items():
            contexts = [requests[index].args[0] for index in indices]
            texts |= dict(zip(indices, self._generate(contexts, decoding), strict=True))
        return [texts.get(index, "") for index in range(len(requests))]

    def encode(self, text: str, add_special_tokens: bool | None = None) -> Tokens:
        """Token ids; None adds the tokenizer's special tokens, unless the text begins with the prefix token."""
        if add_special_tokens is None and self._prefix is not None and text.startswith(self._prefix):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        tokens: Tokens = self.tokenizer.encode(text, **options)
        return tokens

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt in the format that the model was trained on.

        A template without a system role gets the conversation without system messages, as in lm-eval's own models.
        """
        from jinja2.exceptions import TemplateError

        render = partial(
            self.tokenizer.apply_chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        try:
            return str(render(list(messages)))
        except TemplateError:
            _LOG.warning("the chat template refuses the conversation; it is used without its system message")
            return str(render([message for message in messages if message["role"] != "system"]))

    @cached_property
    def _prefix(self) -> str | None:
        try:
            return str(self.tokenizer.decode(self.prefix_token))
        except UnscorableError:
            return None

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
        return (before, whole[len(before) :]) if before else self._encode_pair("", context + continuation)

    def _pair_of(self, request: Instance) -> tuple[Tokens, Tokens]:
        """The tokens of a request's context and continuation.

        Raises:
            UnscorableError: The continuation has no token, or too many.
        """
        context, continuation = cast("tuple[str, str]", request.args)
        before, tokens = self._encode_pair(context, continuation)
        if not tokens:
            told = "has no token of its own: one that belongs to the context covers it" if continuation else "is empty"
            raise UnscorableError(f"a continuation {told}")
        if len(tokens) > self.max_length:
            raise UnscorableError(
                f"a continuation has more than {self.max_length} tokens, the most that the model reads"
            )
        if context and not self.encode(context.rstrip()):
            self.without_context.add(_document(request))
        return before, tokens

    def _prompt(self, context: str, _: Instance) -> Tokens:
        if tokens := self.encode(context):
            return tokens
        raise UnscorableError("a prompt has no token")

    def _unless_unscorable(self, request: Instance, encode: Callable[[Instance], Result]) -> Result | None:
        """The tokens of a request; None if it cannot be scored."""
        try:
            return encode(request)
        except UnscorableError as error:
            if self.unscored is None:
                raise UnsupportedError(f"document {request.doc_id} cannot be scored: {error}") from error
            self.unscored.setdefault(_document(request), str(error))
            return None

    def _windows(self, text: str) -> list[tuple[Tokens, Tokens]]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self.encode(text), prefix_token=self.prefix_token, max_seq_len=self.max_length, context_len=1
        )
        return [make_disjoint_window(window) for window in windows]

    def _generate(self, contexts: Sequence[str], decoding: Decoding) -> list[str]:
        """The continuation of each context; the longest first, those of one length by text, as in lm-eval."""
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise UnsupportedError(
                f"{decoding.max_new_tokens} new tokens leave no room for a prompt in {self.max_length} tokens; set a "
                "larger max_length, or fewer max_gen_toks"
            )
        whole = [self.encode(context) for context in contexts]
        order = sorted(range(len(contexts)), key=lambda index: (-len(whole[index]), contexts[index]))
        texts: dict[int, str] = {}

        def next_batch(size: int) -> dict[int, str]:
            chosen = order[len(texts) : len(texts) + size]
            prompts = [whole[index][-room:] for index in chosen]
            return dict(zip(chosen, self._generate_batch(prompts, decoding, self.seed + chosen[0]), strict=True))

        while len(texts) < len(contexts):
            texts |= self._fitting(next_batch)
        return [texts[index] for index in range(len(contexts))]

    def _generate_batch(self, prompts: Sequence[Tokens], decoding: Decoding, seed: int) -> list[str]:
        inputs, mask = _pad_left(prompts, self.adapter.device)
        endings = Endings(self.tokenizer, decoding, self.end_tokens | {self.tokenizer.eos_token_id}, len(prompts))
        made = self.adapter.generate(
            inputs,
            mask,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            seed=seed,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            has_ended=endings,
        )
        return [endings.text(row) for row in made.tolist()]

    def _fitting(self, run: Callable[[int], Result]) -> Result:
        while True:
            try:
                return run(self.batch_size)
            except torch.OutOfMemoryError:
                if not self.halves or self.batch_size == 1:
                    raise
                self.batch_size //= 2
                _LOG.warning("batch halved to %d after running out of memory", self.batch_size)


def _document(request: Instance) -> int:
    assert request.doc_id is not None
    return int(request.doc_id)


def _answer(score: Continuation) -> tuple[float, bool]:
    return score.loglikelihood_nats, score.is_greedy


def text_model(
    adapter: Adapter, folder: Path, *, batch_size: int, seed: int, share_context: bool, halves: bool = False
) -> TextModel:
    """The text model of an adapter whose checkpoint is in `folder`; other arguments are attributes of `TextModel`."""
    return TextModel(
        adapter, load_tokenizer(folder), _end_tokens(folder), batch_size, seed, halves, share_context=share_context
    )


def ends_of(tokenizer: Any, name: str) -> TextEnds | None:
    """The special tokens at the ends of a text; None without a BOS and an EOS token, as lm-eval takes no others.

    Args:
        tokenizer: The tokenizer.
        name: Where it comes from, for errors.
    """
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        return None
    return TextEnds.of(tokenizer, name)


def model_length(folder: Path, tokenizer: Any) -> int:
    """Longest input of a checkpoint in tokens, as lm-eval finds it; 2048 if neither model nor tokenizer has one."""
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(transformers_config(folder), tokenizer))


def _end_tokens(folder: Path) -> frozenset[int]:
    """Tokens at which transformers' own generation ends."""
    for file in filter(Path.is_file, (folder / "generation_config.json", folder / "config.json")):
        content = read_config(folder) if file.name == "config.json" else parse_json(file.read_bytes())
        ends = content.get("eos_token_id")
        if ends is not None:
            return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()


def _pad_left(rows: Sequence[Tokens], device: Any) -> tuple[Tensor, Tensor]:
    """Token ids `[b, n]`, and which of them are no padding."""
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    inputs = pad([torch.tensor(row, dtype=torch.long) for row in rows])
    mask = pad([torch.ones(len(row), dtype=torch.bool) for row in rows])
    return inputs.to(device), mask.to(device)
