"""The sections of docs/benchmarks.md on where prefixes begin, and on what gated ones add to a program."""

from typing import Any

from common import ROOT
from report_parts import origin, table

PASSES, KEPT = ("forward", "training"), ("training", "unrolled")


def starts(record: dict[str, Any]) -> str:
    figures, rows = record["figures"], []
    texts = figures["texts"]
    references = ("random", "random, wide")
    against = (f"less that of `{reference}`, 95 %" for reference in references)
    early = round(figures["steps"] / 5)
    done = {name: found for name, found in figures["starts"].items() if found["runs"]}
    for name, found in sorted(done.items(), key=lambda item: item[1]["mean"]):
        runs = list(found["runs"].values())
        at = {step: _mean(dict(map(tuple, run["curve"]))[step] for run in runs) for step in (0, early)}
        tried = sorted(map(float, found["rates"]))
        edge = "*" if found["rate"] in (tried[0], tried[-1]) else ""
        deviation = "" if found["deviation"] is None else f" ± {found['deviation']:.4f}"
        differences = (_difference(found["differences"].get(reference)) for reference in references)
        parts = ("keys", "values")
        sizes = " / ".join(f"{_mean(run['begins'][part] for run in runs):.2g}" for part in parts)
        spread = " / ".join(f"{_mean(run['ends'][f'{part}_spread'] for run in runs):.2f}" for part in parts)
        losses = (f"{at[0]:.3f}", f"{at[early]:.3f}", f"{found['mean']:.4f}{deviation}")
        rows.append((f"`{name}`", f"{found['rate']:g}{edge}", sizes, *losses, *differences, spread))
    head = ("start", "rate", "size at step 0: keys / values", "loss at step 0", f"at step {early}", "test loss, end")
    seeds = max(len(found["runs"]) for found in done.values())
    picture = "\n\n![validation loss of each start by step](starts.png)" * (ROOT / "docs" / "starts.png").exists()
    return (
        f"## Where a prefix begins\n\n{origin(record)}\n\n"
        + table((*head, *against, "tokens' spread at the end"), rows)
        + f"\n\nP-Tuning v2 of {figures['length']} virtual tokens a layer on the embedded triples-to-text task, "
        f"{figures['steps']} steps of {figures['batch']} rows, {seeds} seeds, no dropout, positions not shifted in any "
        "start. Losses are nats per target token: on the validation rows at step 0 and early, on the test rows at the "
        "end, of the leaves with the best validation loss. A seed is the random numbers or drawn words, where there "
        "are any, and the order of the data; differences are paired by it, intervals are Student's, each for itself. "
        "Rates are the best of four or more by the validation loss of one further seed at full length, the grid being "
        "widened at its ends (* is an end that could not be). Size is a root mean square over layers. The spread is "
        "the distance of a layer's virtual tokens from their mean, as a share of their size.\n\n"
        f"The request is {texts['text, a request']!r}, the example {texts['text, an example']!r}; words are drawn from "
        "the whole vocabulary. `random` and `random, wide` are the same random numbers but for their size.\n\n"
        "Zeros are the one start that is clearly bad: equal tokens get equal gradients and stay equal, so that all of "
        "a layer's tokens are one with their summed weight. Beyond that the size of the numbers is most of what is to "
        "be seen: wide random numbers, half the size of real keys, end better than small ones, and five seeds do not "
        "tell them from words or texts, though the means of words and of the request are lower. Masses of 0 are slow "
        "at first. That a text helps by its meaning is not to be seen: drawn words do as well as the request, an "
        "example of the task does no better, and the loss at step 0 says nothing of the end.\n\n"
        "This is one small decoder, one task, length and number of steps. Its positions are a table and are not "
        "shifted, so that a text lies on the positions of the prompt and is not, before training, what it would be in "
        "context: a real prompt may do better elsewhere. Of each kind of text there is one, whose seeds differ in the "
        "order of the data alone; masses have the rate of the keys; rates lie a factor of three apart; and intervals "
        "are not corrected for their number." + picture
    )


def apt_memory(record: dict[str, Any]) -> str:
    figures = record["figures"]
    shape, rows = figures["shape"], []
    for found in figures["rows"]:
        sizes = (f"{found[name] / 2**20:.1f}" for name in ("bare_bytes", "gated_bytes", "unit_bytes"))
        rows.append((found["pass"], found["stack"], found["rows"], *sizes, f"{found['ratio']:.3f}"))
    ratios = {name: [found["ratio"] for found in figures["rows"] if found["pass"] == name] for name in PASSES}
    unrolled = [found["ratio"] for found in figures["rows"] if (found["pass"], found["stack"]) == KEPT]
    verdict = "within" if max(ratios["forward"]) <= figures["bound"] else "beyond"
    return (
        f"## What gates add to memory\n\n{origin(record)}\n\n"
        + table(("pass", "layers", "rows", "bare MiB", "gated prefix MiB", "unit MiB", "growth / unit"), rows)
        + f"\n\nTemporaries of the compiled program, Adaptive Prefix Tuning of {shape['length']} virtual tokens, no "
        f"dropout, BERT of {shape['layers']} x {shape['width']}, {shape['tokens']} tokens. The unit is one layer's "
        f"scores of the virtual tokens in float32. The forward pass is {verdict} the bound of {figures['bound']:g} "
        "units; it grows by less than a unit where the scores fit into buffers that the MLP needs anyway. The gradient "
        f"grows by up to {max(ratios['training']):.1f} units, that of an unrolled stack by "
        f"{max(unrolled) / shape['layers']:.1f} a layer: the backward pass is written to compute the scores of virtual "
        "tokens again, but in an unrolled stack XLA on a CPU merges that with the first computation and keeps them; in "
        "a scan it does not."
    )


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found['mean']:+.4f} ({low:+.4f} to {high:+.4f})"


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)
