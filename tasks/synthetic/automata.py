"""Random automata, prompts of their strings, and the distribution of each next symbol."""

from __future__ import annotations

from dataclasses import dataclass

from ..heavy import NDArray, np
from ..settings import check_ranges
from .generated import GeneratedRows, GeneratedSettings


@dataclass(frozen=True)
class LanguageSettings(GeneratedSettings):
    """How automata and strings are made.

    Attributes:
        symbols: Number of symbols; the separator is one more token.
        least_alphabet: Fewest symbols of an automaton's alphabet; the largest alphabet has all symbols.
        least_states: Fewest states.
        most_states: Most states.
        most_edges: Most edges that leave a state, at most the size of the alphabet; a state has 1 or more.
        most_length: Most symbols of a string; a string has 1 or more.
        length: Tokens of a prompt; the model predicts the last token and does not read it.
        train_samples: Training prompts.

    Raises:
        ValueError: A number is outside its range.
    """

    symbols: int = 18
    least_alphabet: int = 4
    least_states: int = 4
    most_states: int = 12
    most_edges: int = 4
    most_length: int = 50
    length: int = 513
    train_samples: int = 40_000
    validation_samples: int = 500
    test_samples: int = 500

    def __post_init__(self) -> None:
        check_ranges(self, {"least_alphabet": (1, self.symbols), "most_edges": (1, self.symbols)})
        check_ranges(self, {"least_states": (1, self.most_states), "most_length": (1, None), "length": (3, None)})

    @property
    def separator(self) -> int:
        """The token before each string; symbols are the tokens below it."""
        return self.symbols


@dataclass(frozen=True)
class LanguagePrompts(GeneratedRows):
    """Prompts of one split with their automata.

    Attributes:
        symbol: Symbol of each edge of each state, `[rows, states, edges]`; 0 where there is no such edge.
        target: State that each edge leads to, `[rows, states, edges]`; 0 where there is no such edge.
        edges: Number of edges that leave each state, `[rows, states]`; 0 for states that an automaton does not have.
        tokens: `[rows, length]` int32; a prompt begins with a separator.
        states: State after each token, `[rows, length]`; 0 after a separator.
    """

    symbol: NDArray[np.int8]
    target: NDArray[np.int8]
    edges: NDArray[np.int8]
    tokens: NDArray[np.int32]
    states: NDArray[np.int8]


def draw_automata(
    rng: np.random.Generator, rows: int, settings: LanguageSettings
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]]:
    """Symbols, targets and numbers of edges, as `LanguagePrompts` holds them."""
    most_states, most_edges = settings.most_states, settings.most_edges
    states = rng.integers(settings.least_states, most_states + 1, size=rows)
    alphabet = rng.integers(settings.least_alphabet, settings.symbols + 1, size=rows)
    edges = rng.integers(1, np.minimum(most_edges, alphabet)[:, None] + 1, size=(rows, most_states))
    edges[np.arange(most_states) >= states[:, None]] = 0
    # An alphabet begins a permutation of all symbols; the symbols of a state begin a permutation of its alphabet.
    order = rng.random((rows, settings.symbols)).argsort(axis=1)
    keys = rng.random((rows, most_states, settings.symbols))
    keys[np.broadcast_to((np.arange(settings.symbols) >= alphabet[:, None])[:, None], keys.shape)] = np.inf
    places = keys.argsort(axis=-1)[..., :most_edges]
    symbol = np.take_along_axis(order[:, None], places, axis=-1)
    target = rng.integers(states[:, None, None], size=(rows, most_states, most_edges))
    for table in (symbol, target):
        table[np.arange(most_edges) >= edges[..., None]] = 0
    return symbol.astype(np.int8), target.astype(np.int8), edges.astype(np.int8)


def generate(rng: np.random.Generator, rows: int, settings: LanguageSettings) -> LanguagePrompts:
    """Prompts full of strings, each with its own automaton."""
    symbol, target, edges = draw_automata(rng, rows, settings)
    tokens = np.full((rows, settings.length), settings.separator, np.int32)
    states = np.zeros((rows, settings.length), np.int8)
    row, state = np.arange(rows), np.zeros(rows, np.int64)
    left = rng.integers(1, settings.most_length + 1, size=rows)  # symbols still to come in the string
    for i in range(1, settings.length):
        edge = (rng.random(rows) * edges[row, state]).astype(np.int64)
        goes_on = left > 0
        tokens[goes_on, i] = symbol[row, state, edge][goes_on]
        state = np.where(goes_on, target[row, state, edge], 0)
        states[:, i] = state
        left = np.where(goes_on, left - 1, rng.integers(1, settings.most_length + 1, size=rows))
    return LanguagePrompts(symbol, target, edges, tokens, states)


def true_distribution(prompts: LanguagePrompts, symbols: int) -> NDArray[np.float64]:
    """The automaton's probability of each symbol after each token but the last, `[rows, length - 1, symbols]`."""
    rows, states, most_edges = prompts.symbol.shape
    table = np.zeros((rows, states, symbols))
    share_of = 1 / np.maximum(prompts.edges, 1)
    row, state = np.arange(rows)[:, None], np.arange(states)
    for edge in range(most_edges):
        table[row, state, prompts.symbol[..., edge]] += np.where(edge < prompts.edges, share_of, 0.0)
    return np.asarray(table[row, prompts.states[:, :-1]])
