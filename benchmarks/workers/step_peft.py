"""Training steps of Hugging Face PEFT's prefix tuning (torch) on a random BERT, one for each line that comes."""

import argparse

import torch
from answering import serve
from common import versions
from peft import PrefixTuningConfig, TaskType, get_peft_model
from transformers import BertConfig, BertForSequenceClassification


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("layers", "width", "heads", "batch", "tokens", "length", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.width,
        num_labels=4,
    )
    prefix = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=options.length)
    model = get_peft_model(BertForSequenceClassification(config), prefix)
    model.train()
    trained = [leaf for leaf in model.parameters() if leaf.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.randint(5, 30000, (options.batch, options.tokens))
    mask, labels = torch.ones_like(ids), torch.randint(0, 4, (options.batch,))

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    serve(
        step,
        trained=sum(leaf.numel() for leaf in trained),
        attention=model.base_model.config._attn_implementation,
        packages=versions(("torch", "transformers", "peft")),
    )


if __name__ == "__main__":
    main()
