"""The studies: one file per question of the papers, each a command of its own."""
