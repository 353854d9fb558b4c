"""One process of one version of the package: seconds to read and tokenise labelled rows of a JSONL file.

Works with the package before and after its rooms moved, whichever PYTHONPATH names (benchmarks/before_after.py).

    python preprocess.py FILE FOLDER_FOR_THE_PREPARED_ROWS
"""

import json
import sys
import time
from pathlib import Path

import jaxprefix as jp

try:
    from jaxprefix.tasks.preparing import prepare
except ImportError:  # before tasks had behaviour
    try:
        from jaxprefix.tasks.prepare import prepare
    except ImportError:  # 0.1.0
        from jaxprefix.data.prepare import prepare


def main() -> None:
    file, folder = sys.argv[1:]
    *_, tokenizer = jp.load_pretrained("tiny-encoder")
    task = jp.Classification(jp.Files(train=file), text="text", label="label", max_length=64)
    begun = time.perf_counter()
    examples = prepare(task, tokenizer, folder=Path(folder))
    print(json.dumps({"seconds": time.perf_counter() - begun, "rows": len(examples), "tokens": len(examples.ids)}))


if __name__ == "__main__":
    main()
