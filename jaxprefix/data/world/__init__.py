"""The embedded world: a small, seeded generator of English-like text about invented people, places, things and events.

Facts are triples, sentences are written from facts, and everything else is made of sentences: an unlabelled corpus to
pretrain a small encoder on, and labelled tasks with the columns and metrics of the papers' benchmarks.

`lexicon`    the words: invented names, relations with their sentence patterns
`facts`      a scene: a cast of entities and the triples that hold among them
`language`   triples to sentences: statement, negation, question, pronouns, passages
`senses`     words with two senses, and sentences that use them
`mentions`   sentences with tagged names
`corpus`     unlabelled passages
`tasks`      labelled examples: questions, entailment, senses, entities
`builder`    the TFDS dataset `little_world`
`tokenizer`  the WordPiece tokenizer of the embedded encoder

Everything is a pure function of a `numpy.random.Generator`. The corpus and the splits of every task are disjoint: each
cast of names belongs to one of them only (`facts.realm_of`).
"""
