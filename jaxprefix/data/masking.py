"""Which tokens a masked language model must predict: a pure function of (seed, step, row).

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019, section 3.1: of the chosen tokens 80 %
become the mask token, 10 % a random token, 10 % stay.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer, UInt64

from jaxprefix.data.examples import IGNORED, Vocabulary

MASKED, REPLACED = 0.8, 0.1


@dataclasses.dataclass(frozen=True)
class Masking:
    """What masked language modelling does to every batch (`Examples.finish`).

    Attributes:
      vocabulary: of the tokenizer.
      rate: share of the tokens that are to be predicted.
      focus_ids: tokens that are to be predicted at `focus_rate` instead.
      focus_rate: theirs.
    """

    vocabulary: Vocabulary
    rate: float
    focus_ids: tuple[int, ...] = ()
    focus_rate: float = 0.0

    def __call__(
        self, batch: dict[str, np.ndarray], rows: Integer[np.ndarray, " B"], seed: int, step: int
    ) -> dict[str, np.ndarray]:
        """The batch with masked `input_ids` and `labels` `[B, T]`; `rows` are the examples' numbers."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        rates = np.where(np.isin(ids, self.focus_ids), self.focus_rate, self.rate)
        masked, labels = mask_tokens(ids, mask, rows, self.vocabulary, rates, seed, step)
        labels[batch["weight"] == 0] = IGNORED
        return {**batch, "input_ids": masked, "labels": labels}


def mask_tokens(
    ids: Int32[np.ndarray, "B T"],
    real: Bool[np.ndarray, "B T"],
    rows: Integer[np.ndarray, " B"],
    vocabulary: Vocabulary,
    rate: float | Float[np.ndarray, "B T"],
    seed: int,
    step: int,
) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "B T"]]:
    """Masked ids, and labels that hold the original id where a prediction is due and -100 elsewhere.

    `rate` is the share of tokens to choose, of all or of each. `rows` are the rows' numbers in the dataset. A row is
    masked in the same way whatever it is batched with and however far it is padded. Special tokens are never chosen and
    never drawn as replacements.
    """
    assert vocabulary.mask_id is not None  # `prepare` refuses a tokenizer without a mask token
    bits = row_bits(seed, step, rows, ids.shape[1])
    chosen = real & (_uniform(bits[..., 0] >> np.uint64(32)) < rate)
    chosen &= ~np.isin(ids, np.array(vocabulary.special_ids, np.int32))
    action = _uniform(bits[..., 0] & np.uint64(0xFFFFFFFF))
    ordinary = _ordinary(vocabulary)
    drawn = ordinary[bits[..., 1] % np.uint64(len(ordinary))]
    masked = np.where(chosen & (action < MASKED), np.int32(vocabulary.mask_id), ids)
    masked = np.where(chosen & (action >= MASKED) & (action < MASKED + REPLACED), drawn, masked)
    return masked, np.where(chosen, ids, np.int32(IGNORED))


def row_bits(seed: int, step: int, rows: Integer[np.ndarray, " B"], width: int) -> UInt64[np.ndarray, "B width 2"]:
    """128 random bits per token: Philox with key (seed, step), its counter starting at (0, row, 0, 0)."""
    generator = np.random.Philox(key=np.array([seed, step], np.uint64))
    state = generator.state
    bits = np.empty((len(rows), width, 2), np.uint64)
    for place, row in enumerate(rows.tolist()):
        state["state"]["counter"] = np.array([0, row, 0, 0], np.uint64)
        generator.state = state
        bits[place] = generator.random_raw(2 * width).reshape(width, 2)
    return bits


@functools.lru_cache(maxsize=4)
def _ordinary(vocabulary: Vocabulary) -> np.ndarray:
    """The ids that a masked token may be replaced by."""
    return np.setdiff1d(np.arange(vocabulary.size, dtype=np.int32), np.array(vocabulary.special_ids, np.int32))


def _uniform(bits: UInt64[np.ndarray, "B T"]) -> np.ndarray:
    """32 bits to [0, 1)."""
    return bits * np.float64(2.0**-32)
