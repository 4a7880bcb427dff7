"""A target with random weights in the smoke configuration, for tests that need no training."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.config import TinyConfig, smoke
from gloss_training.target import target_config
from gloss_training.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def config() -> TinyConfig:
    return smoke()


@pytest.fixture(scope="session")
def tokenizer(config: TinyConfig) -> PreTrainedTokenizerFast:
    return build_tokenizer(config.model.max_length)


@pytest.fixture
def target(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(target_config(config.model, tokenizer))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
