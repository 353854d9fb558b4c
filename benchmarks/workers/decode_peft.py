"""Greedy decoding with Hugging Face PEFT's prefix tuning (torch) on a random GPT-2, once for each line that comes."""

import argparse

import torch
from answering import serve
from common import versions
from peft import PrefixTuningConfig, TaskType, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("layers", "width", "heads", "batch", "tokens", "new", "length", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = GPT2Config(n_embd=options.width, n_layer=options.layers, n_head=options.heads)
    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=options.length)
    model = get_peft_model(GPT2LMHeadModel(config), prefix)
    model.eval()
    ids = torch.randint(5, 50000, (options.batch, options.tokens))
    mask = torch.ones_like(ids)
    ends = {"eos_token_id": None, "pad_token_id": 0}  # every row makes all its tokens

    @torch.no_grad()
    def decode() -> float:
        made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=options.new, do_sample=False, **ends)
        assert made.shape[1] == options.tokens + options.new
        return 0.0

    serve(
        decode,
        attention=model.base_model.config._attn_implementation,
        packages=versions(("torch", "transformers", "peft")),
    )


if __name__ == "__main__":
    main()
