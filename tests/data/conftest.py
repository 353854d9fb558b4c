"""A tiny WordPiece tokenizer, two tiny byte-level ones, and rows in the three file formats."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

TEXT = "a the cat dog sat ran on mat far away in paris london alice bob visited and saw it is was not good bad"
WORDS = TEXT.split()
PIECES = ["##s", "##ly", "##ing", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tokenizer():
    """BERT-like: [CLS] a [SEP] b [SEP] with token_type_ids 0 and 1; unknown words fall apart into letters."""
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,:" if letter not in WORDS]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS, *letters, *PIECES])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def byte_level():
    """RoBERTa-like, padding id 1: a word after a space is another token than the same word at the start."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdot", "Ġa", "Ġc", "Ġca", "Ġcat", "ca", "cat"]
    merges = [("Ġ", "a"), ("Ġ", "c"), ("c", "a"), ("ca", "t"), ("Ġc", "a"), ("Ġca", "t"), ("Ġ", "cat")]
    return RobertaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def letters(first: bool = False):
    """GPT-2-like, one token per letter: end and padding 0, `<s>` 1 (put first where asked), line end 2, space 3, `|` 4,
    a to z from 5 on."""
    tokens = ["<|end|>", "<s>", "Ċ", "Ġ", "|", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if first:
        backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>", unk_token=None
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has its own cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXPREFIX_CACHE", str(folder))
    return folder


def write_rows(path, rows):
    """Rows as .jsonl, .csv or .parquet, by the suffix of the path; gives the path as a string."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow({key: " ".join(v) if isinstance(v, list) else v for key, v in row.items()})
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture
def rows_of_text():
    """Forty rows of 1 to 12 words in two classes."""
    return [
        {"text": " ".join(WORDS[(i + j) % len(WORDS)] for j in range(1 + i % 12)), "label": ["no", "yes"][i % 2]}
        for i in range(40)
    ]
