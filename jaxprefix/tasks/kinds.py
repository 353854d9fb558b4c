"""What a config file says about data: where the rows are, and which columns are what.

Plain frozen values without behaviour, so that they print, compare, hash and travel as JSON.
"""

from dataclasses import dataclass
from typing import Literal

from jaxprefix.data.sources import Source
from jaxprefix.tasks.formats.format import Format


@dataclass(frozen=True)
class Classification:
    """One label for a text, or for a pair of texts."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair; not read where `template` is given."""
    text_pair: str | None = None
    """Column of the second text; not read where `template_pair` is given."""
    label: str = "label"
    """Column of the label."""
    labels: tuple[str, ...] | None = None
    """The labels in the order of the logits; by default the dataset's own, else the training rows' own, sorted."""
    template: str | None = None
    """Makes the first text out of columns: `{question} {passage}`."""
    template_pair: str | None = None
    """Makes the second text out of columns."""
    max_length: int = 128
    """Longest input in tokens, special tokens included; of a pair the longer text is cut first."""
    truncation: bool = True
    """Whether longer inputs are cut; if not, they are an error."""
    metric: Literal["accuracy", "f1_macro"] = "accuracy"
    """The metric that chooses the best checkpoint."""


@dataclass(frozen=True)
class Tagging:
    """One label for each word of a sentence, for instance BIO tags of names."""

    source: Source
    """Where the rows come from."""
    words: str = "tokens"
    """Column of the words: a list, or one string in which spaces separate them."""
    tags: str = "tags"
    """Column of the tags, one for each word, in the same form."""
    labels: tuple[str, ...] | None = None
    """The tags in the order of the logits; by default the dataset's own, else the training rows' own, sorted."""
    max_length: int = 128
    """Longest input in tokens, special tokens included."""
    truncation: bool = True
    """Whether longer sentences are cut; if not, they are an error. Words that were cut off are not scored."""
    metric: Literal["seqeval_f1", "accuracy"] = "seqeval_f1"
    """The metric that chooses the best checkpoint."""


@dataclass(frozen=True)
class MaskedLanguage:
    """Unlabelled text: predict the tokens that were masked out."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair."""
    text_pair: str | None = None
    """Column of the second text; rows where it is empty are single texts."""
    mask_rate: float = 0.15
    """Share of the tokens that are to be predicted (of these 80 % are masked, 10 % replaced, 10 % kept)."""
    focus: tuple[str, ...] = ()
    """Words, each one token of the tokenizer, that are to be predicted at `focus_rate` instead: for what is rare in the
    text and needs much of it understood."""
    focus_rate: float = 0.5
    """Share of the words of `focus` that are to be predicted."""
    max_length: int = 128
    """Longest input in tokens, special tokens included."""
    truncation: bool = True
    """Whether longer texts are cut; if not, they are an error."""
    metric: Literal["accuracy", "perplexity"] = "accuracy"
    """The metric that chooses the best checkpoint."""


@dataclass(frozen=True)
class CausalLanguage:
    """Unlabelled text for a decoder: predict every next token, and the text's end."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text."""
    max_length: int = 128
    """Longest text in tokens, its end included."""
    truncation: bool = True
    """Whether longer texts are cut; if not, they are an error."""
    packed: bool = False
    """Whether a row of up to `max_length` tokens holds several texts, which do not see each other: less padding, and
    fewer rows in an epoch. Texts go, in the order of the data, each into the first row that has room."""
    metric: Literal["perplexity", "accuracy"] = "perplexity"
    """The metric that chooses the best checkpoint."""


@dataclass(frozen=True)
class ConditionalGeneration:
    """A text to be written for a prompt; the loss is that of the text and its end alone."""

    source: Source
    """Where the rows come from. Rows of one prompt are one case in evaluation, with all their texts as references."""
    prompt: str = "prompt"
    """Column of the prompt; not read where `template` is given."""
    target: str = "target"
    """Column of the text to be written."""
    template: str | None = None
    """Makes the prompt out of columns: `{question} {passage}`."""
    separator: str = "\n"
    """What stands between prompt and target."""
    format: Format | None = None
    """A published format (`jp.WebNLG()`), which makes prompts and targets out of the columns that it names, with its
    own cuts; the four fields above and `truncation` are not read then, and what is longer still is an error."""
    max_prompt_length: int = 128
    """Longest prompt in tokens, the separator included."""
    max_target_length: int = 128
    """Longest target in tokens, its end included."""
    truncation: bool = True
    """Whether longer prompts and targets are cut, each by itself; if not, they are an error."""
    packed: bool = False
    """Whether a row of up to `max_prompt_length + max_target_length` tokens holds several prompts with their targets,
    as in `CausalLanguage`."""
    metric: Literal["perplexity", "accuracy"] = "perplexity"
    """The metric that chooses the best checkpoint."""

    @property
    def max_length(self) -> int:
        """Longest row in tokens, which a packed one is filled up to."""
        return self.max_prompt_length + self.max_target_length


Unlabelled = MaskedLanguage | CausalLanguage | ConditionalGeneration
"""Tasks whose labels are tokens."""

Task = Classification | Tagging | MaskedLanguage | CausalLanguage | ConditionalGeneration
