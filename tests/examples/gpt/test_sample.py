"""Sampling with a cache against the whole forward pass for every token; the command."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt import generation, model, sample
from tests.examples.gpt.test_blocks import GPT2, LLAMA, VOCAB, jit, random_params

KEY = jax.random.key(3)


def draw_plainly(config, params, prompt, count, temperature=1.0, top_k=None):
    """The same tokens, each from the logits of all tokens before it."""
    graph = model.make_graph(config, VOCAB)
    logits_of = jit(lambda tokens: model.apply(graph, params, tokens))
    tokens = list(prompt)
    for key in jax.random.split(KEY, count):
        window = tokens[-config.block_size :]
        padded = np.zeros((1, config.block_size), np.int32)
        padded[0, : len(window)] = window  # What follows is not seen.
        logits = np.array(logits_of(padded)[0, len(window) - 1])
        if top_k:
            logits[logits < np.sort(logits)[-top_k]] = -np.inf
        tokens.append(int(jax.random.categorical(key, logits / temperature)))
    return tokens[len(prompt) :]


def draw(config, params, prompt, count, temperature=1.0, **options):
    graph = model.make_graph(config, VOCAB)
    options = {"vocabulary": VOCAB, "context": config.block_size} | options
    prompt = np.array(prompt, np.int32)
    program = functools.partial(generation.draw, graph, count=count, **options)
    return jit(program)(params, prompt, KEY, temperature).tolist()


@pytest.mark.parametrize("config", [GPT2, dataclasses.replace(LLAMA, scan_layers=True)])
def test_the_cache_changes_nothing_within_the_context_and_beyond(config):
    params = random_params(config)
    expected = draw_plainly(config, params, [1, 7], count=9)  # The context is 6.
    assert draw(config, params, [1, 7], count=9) == expected


def test_a_token_at_a_time_gives_the_logits_of_the_whole():
    config = dataclasses.replace(LLAMA, n_layer=1)
    params, tokens = random_params(config), np.arange(6)[None]
    graph = model.make_graph(config, VOCAB)

    @jit
    def both(params):
        gpt, found = model.merge(graph, params), []
        caches, position = gpt.empty_caches(1), 0
        for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
            x, caches = gpt.features(part, None, caches, position)
            found.append(gpt.logits(x))
            position += part.shape[1]
        return jnp.concatenate(found, 1), gpt(tokens)

    np.testing.assert_allclose(*both(params), rtol=1e-5, atol=1e-5)


def test_long_prompts_top_k_temperature_and_padded_vocabularies():
    config = dataclasses.replace(GPT2, n_layer=1)
    params, prompt = random_params(config), list(range(9))
    found = draw(config, params, prompt, count=30, temperature=3.0, top_k=2)
    assert found == draw_plainly(config, params, prompt, 30, temperature=3.0, top_k=2)
    options = {"vocabulary": 4, "top_k": 1000}  # More than there are.
    assert set(draw(config, params, prompt, count=50, temperature=1e3, **options)) == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_command_goes_on_from_a_prompt_with_a_run_s_own_model(short_run, capsys):
    assert sample.main([str(short_run), "--sample_tokens=20"]) == 0
    assert capsys.readouterr().out == (short_run / "sample.txt").read_text("utf-8") + "\n"


@pytest.mark.slow
def test_the_command_takes_the_weights_prompt_and_seed_asked_for(short_run, monkeypatch, capsys):
    def told(graph, params, data, config, prompt):
        return f"{prompt} {float(params['wte']['embedding'].sum())} {config.random_seed}"

    monkeypatch.setattr(sample, "generate", told)
    assert sample.main([str(short_run / "checkpoints/8")]) == 0
    for flags in ([], ["--ema"], ["--prompt=a"], ["--random_seed=1"]):
        assert sample.main([str(short_run / "checkpoints"), *flags]) == 0
    assert len({*capsys.readouterr().out.splitlines()}) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["no/run"], "RUN no/run does not exist: write the folder of a run"),
        (["RUN", "--prompt=\N{SNOWMAN}"], "the model knows no token for it"),
        (["RUN", "--temperature=0"], "--temperature must be positive"),
        (["RUN", "--sample_tokens", "1" + 12 * "0"], "--sample_tokens must be at most 2147483647"),
        (["RUN", "--tmeperature=1"], "did you mean --temperature"),
    ],
)
def test_mistakes_are_one_line(short_run, capsys, flags, message):
    argv = [str(short_run) if flag == "RUN" else flag for flag in flags]
    assert sample.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
