"""A GPT that trains in a second."""

import shlex

SMALL = shlex.split(
    "tiny --n_layer=1 --n_head=2 --n_embd=8 --block_size=8 --batch_size=4 --dropout=0.1 "
    "--warmup_iters=3 --eval_examples=8 --log_interval=1 --sample_tokens=20"
)
SHORT = [*SMALL, "--max_iters=12", "--eval_interval=4"]
