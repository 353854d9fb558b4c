"""The tokenizers of the embedded backbones: WordPiece of the encoder, byte-level BPE of the decoder.

The encoder's is lower-cased: it halves the vocabulary, and leaves no capital letters for the tagging task to lean on.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike, max_length: int = 128) -> Path:
    """Trains a lower-casing BERT WordPiece tokenizer and writes it as a Hugging Face folder.

    Writes `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, which `transformers.AutoTokenizer` reads (beside a
    `config.json` or without one). The same texts in the same order give the same files.

    Args:
      texts: the corpus.
      vocab_size: number of word pieces at most, the five special tokens counted in.
      folder: created where it does not exist.
      max_length: the longest sequence that the encoder takes, kept in `tokenizer_config.json`.

    Returns:
      the folder.
    """
    from tokenizers import decoders, processors, trainers

    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    # The trainer numbers the inner characters in the order of a randomly seeded hash table, and breaks ties by number.
    # Handing them in as special tokens fixes their order; the tokenizer is then built anew with the true ones.
    fixed = [*SPECIAL, *characters, *(f"##{c}" for c in characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    draft = _untrained({"[UNK]": 0})
    draft.train_from_iterator(texts, trainer)
    vocabulary = sorted(draft.get_vocab().items(), key=lambda item: item[1])
    tokenizer = _untrained(dict(vocabulary))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.decoder = decoders.WordPiece()
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary))
    settings = {
        "tokenizer_class": "BertTokenizerFast", "do_lower_case": True, "model_max_length": max_length,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def _untrained(vocabulary: dict[str, int]) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


END = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocab_size: int, folder: str | os.PathLike, max_length: int = 256) -> Path:
    """Trains a byte-level BPE tokenizer as GPT-2's and writes it as a Hugging Face folder.

    A space is put before the first word, so that a word is the same token wherever it stands. `<|endoftext|>`, id 0,
    ends texts and is the padding. Arguments and result are those of `train_tokenizer`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length,
        "bos_token": END, "eos_token": END, "pad_token": END, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder
