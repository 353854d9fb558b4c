"""Adapters to and from other libraries: their tensors on one side, our leaves on the other.

`layout.py` says how a prefix lies in one table, `converted.py` what a foreign adapter is in our terms, `files.py` reads
tensors. `p_tuning_v2.py` and `adapters_library.py` know one format each, `peft.py` the folders of PEFT, with a file for
each kind of adapter in them (`peft_type.py`): pure functions over dicts of numpy arrays, and functions over folders.
`transformers_classifier.py` reads whole classifiers; `classifier_config.py` knows what a `config.json` says of one.
"""
