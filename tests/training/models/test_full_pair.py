"""Three models as one pair: shared prompts change nothing, the reference stays, names are right."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gloss_training.batches import pad_right
from gloss_training.models.full_pair import FullPair
from gloss_training.models.verbalizer import injected_rows
from support.rl_runs import INJECTION_SCALE, PROMPT, VOCABULARY, encode, make_pair

CASES = [("qwen2", False), ("qwen3", False), ("llama3", False), ("gemma3", False), ("gemma3", True)]
# A response may hold the marker itself (1): injection is by position. Gemma's window here is 8.
RESPONSES = [[11, 1, 12], [21, 22, 23, 24, 25, 26, 27], [31]]


@pytest.fixture(params=CASES, ids=lambda case: case[0] + ("-wrapped" if case[1] else ""))
def pair(request: pytest.FixtureRequest) -> FullPair:
    arch, wrapped = request.param
    return make_pair(arch, num_layers=3, wrapped=wrapped)


def rows_for(pair: FullPair, number: int) -> torch.Tensor:
    width = pair.reconstructor.value_head.weight.shape[0]
    drawn = torch.randn(number, width, generator=torch.Generator().manual_seed(3))
    return injected_rows(drawn, INJECTION_SCALE)


def plain_logprob(pair: FullPair, row: torch.Tensor, response: list[int]) -> torch.Tensor:
    """Sum over one response, by transformers' own forward pass of the whole prompt."""
    model = pair.av.model
    embed = model.get_input_embeddings()
    inputs = embed(torch.tensor([[*PROMPT.token_ids, *response]])).clone()
    inputs[0, PROMPT.marker_index] = row
    logits = model(inputs_embeds=inputs).logits[0, len(PROMPT.token_ids) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum()


def shared_logprobs(pair: FullPair, rows: torch.Tensor) -> torch.Tensor:
    """The same for all responses at once, by the pair."""
    ids = pad_right(RESPONSES, 0)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(r)] for r in RESPONSES])
    logits = pair.logits(pair.response_states(rows, ids))
    chosen = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return chosen.masked_fill(~mask, 0.0).sum(1)


def test_the_shared_prompt_changes_neither_values_nor_gradients(pair: FullPair) -> None:
    pair.av.model.double()
    rows = rows_for(pair, 3).double()
    together = shared_logprobs(pair, rows)
    alone = torch.stack(
        [plain_logprob(pair, row, r) for row, r in zip(rows, RESPONSES, strict=True)]
    )
    # transformers' norms and angles go through float32 even in a model of float64.
    torch.testing.assert_close(together.double(), alone.double(), rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    parameters = list(pair.av_parameters())
    found, expected = (
        torch.autograd.grad((weights * value).sum(), parameters) for value in (together, alone)
    )
    for name, left, right in zip(dict(pair.av_weights()), found, expected, strict=True):
        scale = float(right.norm())
        assert scale > 0, name
        assert float((left - right).norm()) < 1e-4 * scale, name


def test_running_blocks_again_gives_the_same_gradients() -> None:
    results = []
    for checkpointing in (False, True):
        pair = make_pair("gemma3", num_layers=3, gradient_checkpointing=checkpointing)
        loss = shared_logprobs(pair, rows_for(pair, 3)).sum()
        results.append([loss, *torch.autograd.grad(loss, list(pair.av_parameters()))])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-6, atol=1e-6)


def test_the_reference_is_the_av_that_was_given_and_stays(pair: FullPair) -> None:
    rows, ids = rows_for(pair, 3), pad_right(RESPONSES, 0)
    before = pair.reference_logits(pair.reference_states(rows, ids))
    torch.testing.assert_close(before, pair.logits(pair.response_states(rows, ids)))
    with torch.no_grad():
        for parameter in pair.av_parameters():
            parameter.add_(0.1)
    after = pair.reference_logits(pair.reference_states(rows, ids))
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert not torch.allclose(pair.logits(pair.response_states(rows, ids)), before)


def test_an_untrained_ar_is_its_blocks(pair: FullPair) -> None:
    texts = ["11 12 13", "21", "31 32 33 34 35 36 37 38 39"]
    found = pair.reconstruct(*encode(texts))
    assert found.dtype == torch.float32
    decoder = pair.reconstructor.decoder.text
    for text, vector in zip(texts, found, strict=True):
        token_ids, _ = encode([text])
        alone = decoder(input_ids=token_ids, use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-4)


def test_weights_go_by_the_names_of_an_unwrapped_checkpoint(pair: FullPair) -> None:
    config = pair.av.model.config.get_text_config()
    plain = AutoModelForCausalLM.from_config(config)
    av = dict(pair.av_weights())
    expected = {name for name, _ in plain.named_parameters()}
    assert av.keys() == expected
    assert ("lm_head.weight" in av) == (not config.tie_word_embeddings)
    ar = dict(pair.ar_weights())
    assert ar["value_head.weight"].shape == (config.hidden_size, config.hidden_size)
    assert {n for n in expected if n.startswith("model.layers.1.")} < ar.keys()
    unused = ("lm_head", "model.norm", "model.layers.2")
    assert not any(name.startswith(unused) for name in ar)
    assert not any(weight.requires_grad for weight in [*av.values(), *ar.values()])


def test_what_is_trained_is_what_is_given_away(pair: FullPair) -> None:
    """Neither a vision tower, nor a tied head twice."""
    for parameters, weights in (
        (pair.av_parameters(), pair.av_weights()),
        (pair.ar_parameters(), pair.ar_weights()),
    ):
        places = [weight.data_ptr() for _, weight in weights]
        assert sorted(p.data_ptr() for p in parameters) == sorted(places)
        assert len(set(places)) == len(places)
        assert all(p.requires_grad for p in parameters)
    assert pair.logits(torch.zeros(1, rows_for(pair, 1).shape[1])).shape == (1, VOCABULARY)
