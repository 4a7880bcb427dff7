"""The two supervised stages: AR (text to vector) and AV (vector to text), from teacher texts."""

import copy

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.activations import Rows
from gloss_training.config import TinyConfig
from gloss_training.journal import Journal
from gloss_training.optimize import train
from gloss_training.reconstructor import Reconstructor, encode_explanations, from_target
from gloss_training.scoring import normalized_mse
from gloss_training.seeds import generator_for, torch_seed
from gloss_training.tokenizer import marked_prompt
from gloss_training.verbalizer import encode_responses, injected_rows, response_loss


def train_ar(
    config: TinyConfig,
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Rows,
    journal: Journal,
) -> tuple[Reconstructor, dict[str, float]]:
    """Minimises the normalised mse between reconstructions and activations."""
    torch_seed(config.seed, "ar")
    reconstructor = from_target(target, config.model.layer_index).train()
    generator = generator_for(config.seed, "ar")
    token_ids, lengths = encode_explanations(tokenizer, rows.explanations)

    def batch_loss(step: int) -> dict[str, torch.Tensor]:
        chosen = torch.from_numpy(generator.integers(len(rows), size=config.ar.batch_size))
        longest = int(lengths[chosen].max())
        output = reconstructor(token_ids[chosen, :longest], lengths[chosen])
        return {"loss": normalized_mse(output, rows.activations[chosen]).mean()}

    figures = train([*reconstructor.parameters()], config.ar, journal, batch_loss)
    return reconstructor.eval(), figures


def train_av(
    config: TinyConfig,
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Rows,
    injection_scale: float,
    journal: Journal,
) -> tuple[Qwen3ForCausalLM, dict[str, float]]:
    """Minimises the cross-entropy of the teacher's words, given the injected activation."""
    torch_seed(config.seed, "av")
    model = copy.deepcopy(target).train()
    generator = generator_for(config.seed, "av")
    prompt = marked_prompt(tokenizer)
    injected = injected_rows(rows.activations, injection_scale)
    responses = encode_responses(tokenizer, rows.explanations)

    def batch_loss(step: int) -> dict[str, torch.Tensor]:
        chosen = generator.integers(len(rows), size=config.av.batch_size).tolist()
        texts = [responses[index] for index in chosen]
        return {"loss": response_loss(model, prompt, injected[chosen], texts)}

    figures = train([*model.parameters()], config.av, journal, batch_loss)
    return model.eval(), figures
