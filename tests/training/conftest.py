"""A target with random weights in the smoke configuration, for tests that need no training."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.run.config import RunConfig, read_config
from gloss_training.world.target import target_config
from gloss_training.world.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return read_config("smoke")


@pytest.fixture(scope="session")
def tokenizer(config: RunConfig) -> PreTrainedTokenizerFast:
    assert config.world is not None
    return build_tokenizer(config.world, config.seed)


@pytest.fixture
def target(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    assert config.world is not None
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(target_config(config.world.shape, tokenizer))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
