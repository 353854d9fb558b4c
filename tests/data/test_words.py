"""Words that are given one by one have the tokens that they have inside a sentence; answers lie at their words."""

import json

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.tasks import encode_texts
from jaxprefix.tasks.tokenizing import Tokenizing

GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NONE = jp.Files("none.jsonl")
WORDS = ["U.S.", "1996", "the", "it's", "U.S."]


def byte_pairs(split, **more):
    """BPE over bytes with the merges `ĠU`, `.S`, `Ġt`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "U"), (".", "S"), ("Ġ", "t")]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **more)


def pieces(normalizer, split):
    """BPE over letters with `▁` for spaces and the merges `▁U`, `▁t`."""
    letters = sorted({*"▁abcdefghijklmnopqrstuvwxyzUS.'0123456789"})
    merges = [("▁", "U"), ("▁", "t")]
    backend = Tokenizer(
        models.BPE({t: i for i, t in enumerate([*letters, "▁U", "▁t", "<unk>"])}, merges, unk_token="<unk>")
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    if split is not None:
        backend.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


def bytes_level(regex=False, front=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=front, use_regex=regex)


LLAMA_3 = sequence(pre_tokenizers.Split(Regex(GPT_4), "isolated"), bytes_level())
SMOL = sequence(pre_tokenizers.Digits(individual_digits=True), bytes_level(regex=True))
GEMMA = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")


def tokens_of_words(tokenizer, words):
    tokenizing = Tokenizing(tokenizer, 512, True, words=True)
    (found,) = tokenizing([words], ["row 0"])
    by_word = [[] for _ in words]
    for token, word in zip(tokenizer.convert_ids_to_tokens(list(found.ids)), found.word_ids, strict=True):
        if word is not None:
            by_word[word].append(token)
    return by_word


@pytest.mark.parametrize(
    ("split", "word", "expected"),
    [
        (LLAMA_3, "U.S.", ["ĠU", ".S", "."]),
        (LLAMA_3, "1996", ["Ġ", "1", "9", "9", "6"]),
        (SMOL, "1996", ["Ġ", "1", "9", "9", "6"]),
        (SMOL, "U.S.", ["ĠU", ".", "S", "."]),
    ],
)
def test_a_word_carries_its_mark_exactly_once(split, word, expected):
    assert tokens_of_words(byte_pairs(split), ["the", word]) == [["Ġt", "h", "e"], expected]


SPACED = {
    "llama 3": byte_pairs(LLAMA_3),
    "smol": byte_pairs(SMOL),
    "falcon": byte_pairs(
        sequence(pre_tokenizers.Punctuation("contiguous"), bytes_level(regex=True), pre_tokenizers.Digits(False))
    ),
    "bloom": byte_pairs(sequence(pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?])]+"), "isolated"), bytes_level())),
    "gemma": pieces(*GEMMA),
    "gemma without a split": pieces(GEMMA[0], None),
    "metaspace that prepends nothing": pieces(None, pre_tokenizers.Metaspace(prepend_scheme="never")),
}


@pytest.mark.parametrize("name", SPACED)
def test_marked_spaces_are_given_word_by_word(name):
    tokenizer = SPACED[name]
    expected = [tokenizer.tokenize(" " + word) for word in WORDS]
    assert tokens_of_words(tokenizer, WORDS) == expected and all(expected)
    assert tokens_of_words(tokenizer, ["a", "", "b"])[1] == []


ITSELF = {
    "gpt-2": byte_pairs(bytes_level(regex=True)),
    "llama 2": pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "metaspace": pieces(None, pre_tokenizers.Metaspace()),
    "metaspace of the first": pieces(None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "xlm-r": pieces(None, sequence(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace())),
}


@pytest.mark.parametrize("name", ITSELF)
def test_tokenizers_that_mark_words_themselves_are_as_they_were(name):
    tokenizer = ITSELF[name]
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if name == "gpt-2":
        description["pre_tokenizer"]["add_prefix_space"] = True
    before = Tokenizer.from_str(json.dumps(description)).encode(WORDS, is_pretokenized=True)
    found = Tokenizing(tokenizer, 512, True, words=True)([WORDS], ["row 0"])[0]
    assert list(found.ids) == before.ids and list(found.word_ids) == before.word_ids
    inside = tokenizer.tokenize("a " + " ".join(WORDS))
    given = [token for word in tokens_of_words(tokenizer, WORDS) for token in word]
    assert given == inside[len(inside) - len(given) :]


def test_word_pieces_are_as_they_were(tokenizer):
    found = Tokenizing(tokenizer, 512, True, words=True)([["cats", "1996", "it"]], ["row 0"])[0]
    before = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()).encode(
        ["cats", "1996", "it"], is_pretokenized=True
    )
    assert list(found.ids) == before.ids and list(found.word_ids) == before.word_ids


def test_a_tokenizer_whose_words_need_no_mark_serves_and_one_that_loses_it_is_refused():
    def words(split):
        vocabulary = {word: index for index, word in enumerate(["the", "cat", "U.S.", "in", "1996", "[UNK]"])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = split
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")

    assert tokens_of_words(words(pre_tokenizers.WhitespaceSplit()), ["cat", "1996"]) == [["cat"], ["1996"]]
    # a sentence is one unknown word, and words given one by one are known
    with pytest.raises(UserError, match="gives words that are split already other tokens than in a sentence"):
        tokens_of_words(words(pre_tokenizers.Split("|", "removed")), ["cat"])


# Answers


def answers(tokenizer, rows, max_length=128, scores=False):
    """Answers of a tagger whose tag of every token is that of the token's id, modulo 5."""
    task, facts = jp.Tagging(NONE, max_length=max_length), {"labels": ["O", "A", "B", "C", "D"]}
    examples = encode_texts(task, tokenizer, rows, facts)
    width = int(examples.lengths.max())
    ids, labels = np.zeros((len(examples), width), np.int32), np.full((len(examples), width), -100, np.int32)
    for place in range(len(examples)):
        row = examples.row(place)
        ids[place, : len(row["ids"])], labels[place, : len(row["ids"])] = row["ids"], row["labels"]
    outputs = {"predictions": ids % 5, "logits": np.eye(5, dtype=np.float32)[ids % 5] * 30}
    found = jp.Evaluated(outputs, {"labels": labels}, np.arange(len(examples)), None, facts)
    return task.answers(found, rows, scores)


def expected(tokenizer, words):
    names = ["O", "A", "B", "C", "D"]
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    return [names[found[0] % 5] if found else None for found in ids]


@pytest.mark.parametrize(
    "words",
    [
        ["\u200b", "alice", "sat", "mat"],
        ["alice", "\u200b", "\u0301", "sat"],
        ["alice", "sat", ""],
        [" ", "alice"],
        ["\u200b"],
        [],
    ],
)
def test_a_word_without_tokens_has_no_tag_and_the_others_theirs(tokenizer, words):
    (plain,) = answers(tokenizer, [words])
    assert plain == {"words": words, "labels": expected(tokenizer, words)}
    (scored,) = answers(tokenizer, [{"tokens": words}], scores=True)
    best = [None if word is None else max(word, key=word.get) for word in scored["scores"]]
    assert best == scored["labels"] == plain["labels"]


def test_cut_words_have_no_tag_and_strings_are_words(tokenizer):
    rows = ["the\u00a0cat sat", "['alice', 'sat']", ["alice", "\u200b", "sat", "mat", "paris"]]
    found = answers(tokenizer, rows, max_length=5)
    assert found[0]["words"] == ["the\u00a0cat", "sat"] and found[1]["words"] == ["alice", "sat"]
    assert found[1]["labels"] == expected(tokenizer, ["alice", "sat"])
    assert found[2]["labels"] == [*expected(tokenizer, ["alice", "\u200b", "sat", "mat"]), None]
