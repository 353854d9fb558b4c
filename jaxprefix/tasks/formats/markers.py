"""The 16 tokens that the published inducer experiments on GPT-2 add to its vocabulary.

Every run has all of them, whatever its task. `<pad>` comes first: in the code that this code descends from
(VGLM, Lin et al. 2020) the ends of tasks are written as numbers, 50259 for the second token of the list that follows.
"""

BOS_QA, EOS_QA, QUESTION, ANSWER, DOCUMENT = "<bos_qa>", "<eos_qa>", "<question>", "<answer>", "<document>"
BOS_SM, EOS_SM, SOURCE_SM, TARGET_SM = "<bos_sm>", "<eos_sm>", "<source_sm>", "<target_sm>"
BOS_WEBNLG, EOS_WEBNLG, TARGET_WEBNLG = "<bos_webnlg>", "<eos_webnlg>", "<target_webnlg>"
SUBJECT, PROPERTY, OBJECT, PAD = "<subject>", "<property>", "<object>", "<pad>"

QA = (BOS_QA, EOS_QA, QUESTION, ANSWER, DOCUMENT)
SUMMARIES = (BOS_SM, EOS_SM, SOURCE_SM, TARGET_SM)
WEBNLG = (BOS_WEBNLG, EOS_WEBNLG, SUBJECT, PROPERTY, OBJECT, TARGET_WEBNLG)
MARKERS = (PAD, *QA, *SUMMARIES, *WEBNLG)
