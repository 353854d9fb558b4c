"""One tuning run in torch on labelled text: PEFT's prefix tuning, or the head or all of BERT without PEFT."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from answering import answer, peak_bytes
from common import versions
from peft import PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoTokenizer, BertForSequenceClassification


def read(folder: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / f"{split}.jsonl").read_text().splitlines()]


def make_model(settings: dict, labels: int) -> torch.nn.Module:
    model = BertForSequenceClassification.from_pretrained(settings["backbone"], num_labels=labels)
    if settings["method"] == "prefix":
        weights = "zero" if settings.get("zeros") else None
        prefix = PrefixTuningConfig(
            task_type=TaskType.SEQ_CLS, num_virtual_tokens=settings["length"], init_weights=weights
        )
        return get_peft_model(model, prefix)
    if settings["method"] == "head_only":
        for leaf in model.bert.parameters():
            leaf.requires_grad = False
    return model


def main() -> None:
    started = time.perf_counter()
    settings = json.loads(sys.argv[1])
    torch.manual_seed(settings["seed"])
    rows = {split: read(settings["data"], split) for split in ("train", "test")}
    names = sorted({row["label"] for row in rows["train"]})
    tokenizer = AutoTokenizer.from_pretrained(settings["backbone"])
    model = make_model(settings, len(names))
    trained = [leaf for leaf in model.parameters() if leaf.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["rate"], weight_decay=0.0)
    size, count = settings["batch"], len(rows["train"])
    epoch_steps = -(-count // size)
    steps = round(epoch_steps * settings["epochs"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    # tokenised once, as jaxprefix does
    tokens = {
        split: tokenizer([row["text"] for row in found], truncation=True, max_length=128)["input_ids"]
        for split, found in rows.items()
    }
    labels = {split: torch.tensor([names.index(row["label"]) for row in found]) for split, found in rows.items()}

    def batch(split: str, index: list[int]) -> dict:
        padded = tokenizer.pad({"input_ids": [tokens[split][i] for i in index]}, return_tensors="pt")
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}

    times, step = [], 0
    while step < steps:
        begun = time.perf_counter()
        model.train()
        order = torch.randperm(count).tolist()
        for start in range(0, count, size):
            index = order[start : start + size]
            loss = model(**batch("train", index), labels=labels["train"][index]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step >= steps:
                break
        times.append(time.perf_counter() - begun)
        print(f"epoch {len(times)}: {times[-1]:.1f} s, loss {loss.item():.3f}", file=sys.stderr, flush=True)

    model.eval()
    right = 0
    order = sorted(range(len(rows["test"])), key=lambda i: len(tokens["test"][i]))
    with torch.no_grad():
        for start in range(0, len(order), size):
            index = order[start : start + size]
            right += int((model(**batch("test", index)).logits.argmax(-1) == labels["test"][index]).sum())
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer(
        test_accuracy=right / len(order),
        seconds_of_epochs=[round(seconds, 3) for seconds in times],
        trained=sum(leaf.numel() for leaf in trained),
        peak_mib=round(peak_bytes() / 2**20),
        seconds=time.perf_counter() - started,
        cpu_seconds=used.ru_utime + used.ru_stime,
        packages=versions(("torch", "transformers", "peft")),
    )


if __name__ == "__main__":
    main()
