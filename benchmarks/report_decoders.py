"""The sections of docs/benchmarks.md on decoders."""

import statistics
from typing import Any

from report_parts import origin, table

METRICS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
HEAD = ("BLEU", "chrF", "ROUGE-1", "ROUGE-2", "ROUGE-L")


def triples(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = [("no tuning", 0, "", *(f"{figures['untuned'][name]:.1f}" for name in METRICS), "")]
    for name, found in figures["methods"].items():
        runs = list(found["runs"].values())
        if not runs:
            continue
        values = []
        for metric in METRICS:
            of_seeds = [run[metric] for run in runs]
            spread = f" ± {statistics.stdev(of_seeds):.1f}" if len(runs) > 1 else ""
            values.append(f"{statistics.mean(of_seeds):.1f}{spread}")
        perplexity = f"{statistics.mean(run['perplexity'] for run in runs):.3f}"
        rows.append((f"`{name}`", f"{found['trained']:,}", f"{found['rate']:g}", *values, perplexity))
    seeds = max((len(found["runs"]) for found in figures["methods"].values()), default=0)
    return (
        f"## Triples to text\n\n{origin(record)}\n\n"
        + table(("method", "trained", "rate", *HEAD, "perplexity"), rows)
        + f"\n\nGreedy texts for the test prompts of `little_world/triples`, two references each, on the decoder that "
        f"comes with the package: mean and deviation of {seeds} seeds after {figures['steps']} steps of "
        f"{figures['batch']} rows, at the best of three rates by validation perplexity. The decoder has never seen the "
        "form of the triples. Where a rate is the highest or the lowest that was tried, a better one may lie beyond it."
    )


def decoding(record: dict[str, Any]) -> str:
    figures = record["figures"]
    shape = figures["shape"]
    rows = [
        (
            *(row["batch"], row["length"]),
            *(row["tokens_per_second"][name] for name in ("PEFT", "jaxprefix")),
            *(row["ratio_of_minima"], row["ratio_paired_median"]),
            *(row["first_call_seconds"][name] for name in ("PEFT", "jaxprefix")),
        )
        for row in figures["rows"]
    ]
    head = ("rows", "virtual tokens", "PEFT tokens/s", "ours", "ratio: minima", "median of rounds", "PEFT first call s")
    first = [(name, f"{seconds:.2f}") for name, seconds in figures["first_token"].items()]
    return (
        f"## Decoding, {shape['layers']}x{shape['width']}\n\n{origin(record)}\n\n"
        + table((*head, "ours"), rows)
        + f"\n\nGreedy decoding with a prefix in every layer of a random GPT-2 of {shape['layers']} x "
        f"{shape['width']}, float32, prompts of {shape['tokens']} tokens and {shape['new']} new ones, "
        f"{figures['rounds']} rounds in turn; the first call, which compiles, is left out of the rates.\n\n"
        "The first token of one prompt:\n\n"
        + table(("call", "s"), first)
        + "\n\nOne row reads every weight for each token, and so do both libraries: the larger the model, the less is "
        "gained by having no Python between the tokens."
    )
