"""Terms of tokens in chunks are the terms of all at once, in value and in gradient."""

import pytest
import torch

from gloss_training.rl.vocabulary import Reference, TokenTerms, token_terms

NUM_TOKENS, WIDTH, VOCABULARY = 11, 6, 17


def drawn(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STATES = drawn(NUM_TOKENS, WIDTH, seed=0)
REFERENCE_STATES = drawn(NUM_TOKENS, WIDTH, seed=1)
IDS = torch.randint(VOCABULARY, (NUM_TOKENS,), generator=torch.Generator().manual_seed(2))
HEAD = drawn(VOCABULARY, WIDTH, seed=3)
REFERENCE_HEAD = drawn(VOCABULARY, WIDTH, seed=4)


def whole(states: torch.Tensor, head: torch.Tensor, temperature: float) -> TokenTerms:
    """The same by the definitions, over the whole table at once."""
    p = torch.softmax(states @ head.T / temperature, -1)
    q = torch.softmax(REFERENCE_STATES @ REFERENCE_HEAD.T / temperature, -1)
    rows = torch.arange(NUM_TOKENS)
    return TokenTerms(
        logprobs=p[rows, IDS].log(),
        reference_logprobs=q[rows, IDS].log(),
        kl=(p * (p / q).log()).sum(-1),
    )


def in_chunks(states: torch.Tensor, head: torch.Tensor, **options: float) -> TokenTerms:
    return token_terms(
        states,
        IDS,
        lambda x: x @ head.T,
        reference=Reference(
            states=REFERENCE_STATES, head=lambda x: x @ REFERENCE_HEAD.T, has_kl=True
        ),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("chunk", [1, 4, 11, 50])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_value_and_gradient_of_every_chunk_size(chunk: int, temperature: float) -> None:
    weights = drawn(2, NUM_TOKENS, seed=5)
    results = []
    for chunked in (True, False):
        states, head = STATES.clone().requires_grad_(), HEAD.clone().requires_grad_()
        terms = (
            in_chunks(states, head, temperature=temperature, chunk=chunk)
            if chunked
            else whole(states, head, temperature)
        )
        assert terms.kl is not None
        assert terms.reference_logprobs is not None
        loss = (weights[0] * terms.logprobs + weights[1] * terms.kl).sum()
        gradients = torch.autograd.grad(loss, [states, head])
        results.append([terms.logprobs, terms.reference_logprobs, terms.kl, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_without_a_reference_there_are_log_probabilities_alone() -> None:
    terms = token_terms(STATES, IDS, lambda x: x @ HEAD.T, temperature=1.0, chunk=3)
    assert (terms.reference_logprobs, terms.kl) == (None, None)
    torch.testing.assert_close(terms.logprobs, whole(STATES, HEAD, 1.0).logprobs)


def test_a_reference_without_the_kl_gives_its_log_probabilities() -> None:
    reference = Reference(
        states=REFERENCE_STATES, head=lambda x: x @ REFERENCE_HEAD.T, has_kl=False
    )
    terms = token_terms(
        STATES, IDS, lambda x: x @ HEAD.T, temperature=1.0, chunk=3, reference=reference
    )
    assert terms.kl is None
    assert terms.reference_logprobs is not None
    expected = whole(STATES, HEAD, 1.0).reference_logprobs
    torch.testing.assert_close(terms.reference_logprobs, expected)


def test_no_more_than_a_chunk_of_logits_is_made_at_once() -> None:
    sizes: list[int] = []

    def head(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return states @ HEAD.T

    states = STATES.clone().requires_grad_()
    terms = token_terms(states, IDS, head, temperature=1.0, chunk=4)
    assert sizes == [4, 4, 3]
    terms.logprobs.sum().backward()
    # Once more for the backward pass: nothing over the vocabulary was kept.
    assert sorted(sizes) == [3, 3, 4, 4, 4, 4]


def test_empty_chunks_call_the_head_and_change_nothing() -> None:
    """Ranks with fewer tokens than others make as many chunks."""
    sizes: list[int] = []

    def head(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return states @ HEAD.T

    few = token_terms(STATES, IDS, head, temperature=1.0, chunk=8, num_chunks=4)
    assert sizes == [8, 3, 0, 0]
    torch.testing.assert_close(few.logprobs, whole(STATES, HEAD, 1.0).logprobs)
    nothing = STATES[:0].clone().requires_grad_()
    terms = token_terms(nothing, IDS[:0], head, temperature=1.0, chunk=8)
    assert sizes[4:] == [0]
    terms.logprobs.sum().backward()
    assert nothing.grad is not None
