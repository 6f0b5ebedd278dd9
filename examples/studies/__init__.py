"""The studies: one file per question of the source documents, each a command of its own."""
