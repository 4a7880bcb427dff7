"""Configuration of a tiny run: frozen, composed of small parts, unknown keys refused."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Frozen):
    """Shape of the target; the AV has the same, the AR its first `layer_index` + 1 blocks."""

    hidden_size: int = Field(default=128, gt=0)
    intermediate_size: int = Field(default=256, gt=0)
    num_layers: int = Field(default=4, gt=1)
    layer_index: int = Field(default=2, ge=0)
    num_heads: int = Field(default=8, gt=0)
    num_kv_heads: int = Field(default=4, gt=0)
    head_dim: int = Field(default=16, gt=0, multiple_of=16)
    max_length: int = Field(default=512, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layer_index >= self.num_layers - 1:
            raise ValueError(
                f"layer_index {self.layer_index} must lie before the last of {self.num_layers} "
                "blocks: the output of the last one is already what the head reads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads do not divide into {self.num_kv_heads}")
        return self


class OptimizerConfig(_Frozen):
    """One supervised stage: AdamW, linear warm-up, cosine decay to a tenth."""

    num_steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    num_warmup_steps: int = Field(default=30, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class DataConfig(_Frozen):
    """Stories and the positions read from them; every split has stories of its own."""

    max_words: int = Field(default=80, gt=16)
    min_position: int = Field(default=8, ge=1)
    positions_per_story: int = Field(default=6, gt=0)
    num_av_stories: int = Field(default=10000, gt=0)
    num_ar_stories: int = Field(default=4000, gt=0)
    num_heldout_stories: int = Field(default=200, gt=0)
    num_ending_words: int = Field(default=1, gt=0)
    unknown_word_rate: float = Field(default=0.01, ge=0, lt=0.5)


class TinyConfig(_Frozen):
    """A whole run. Equal configurations and thread counts give byte-identical weights."""

    seed: int = Field(default=0, ge=0)
    num_threads: int = Field(default=1, gt=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    target: OptimizerConfig = OptimizerConfig(num_steps=500, batch_size=64, learning_rate=3e-3)
    state_head_weight: float = Field(default=6.0, ge=0)
    ar: OptimizerConfig = OptimizerConfig(num_steps=350, batch_size=64, learning_rate=1.5e-3)
    av: OptimizerConfig = OptimizerConfig(num_steps=1000, batch_size=64, learning_rate=2.5e-3)
    injection_factor: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=96, gt=0)
    num_evaluation_rows: int = Field(default=1000, gt=1)


def smoke(seed: int = 0) -> TinyConfig:
    """A run of seconds that goes through every stage and learns next to nothing."""
    return TinyConfig(
        seed=seed,
        model=ModelConfig(hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=1),
        data=DataConfig(num_av_stories=24, num_ar_stories=24, num_heldout_stories=8),
        target=OptimizerConfig(num_steps=6, batch_size=8, learning_rate=3e-3, num_warmup_steps=2),
        ar=OptimizerConfig(num_steps=6, batch_size=16, learning_rate=1e-3, num_warmup_steps=2),
        av=OptimizerConfig(num_steps=6, batch_size=16, learning_rate=1e-3, num_warmup_steps=2),
        max_new_tokens=12,
        num_evaluation_rows=16,
    )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ between two dumped configurations, as "key: old -> new"."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found.extend(differences(left, right, f"{prefix}{key}."))
        elif left != right:
            found.append(f"{prefix}{key}: {left} -> {right}")
    return found
