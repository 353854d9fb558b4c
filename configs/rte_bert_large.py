"""P-Tuning v2 on RTE with BERT-large, by the settings of its authors' script (run_rte_bert.sh: batch 32, learning rate
1e-2, prefix 20, dropout 0.1, 60 epochs, seed 11); they report 80.1 % for their code and 78.3 % in the paper.

Other published settings stand in place of this one by their names: `jp.published.list_published()` has them all.
"""

import jaxprefix as jp


def config() -> jp.Run:
    task = jp.Classification(
        jp.Tfds("glue/rte", test=None), text="sentence1", text_pair="sentence2", label="label", max_length=128
    )
    return jp.published.P_TUNING_V2_RTE_BERT_LARGE.run(task, folder="runs/rte_bert_large")
