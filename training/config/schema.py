"""What decides a training run, as documented fields: the schema of `elastic-agent train --config FILE`.

The string under a field is its documentation; `elastic-agent train --fields` prints them all. How a config
is put together from a preset, a file and the command line is in `elastic_agent.training.config.loading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from elastic_agent.backends.base import MOST_TEMPERATURE
from elastic_agent.config_files import Count, Natural, Positive, Seconds, Section
from elastic_agent.generation.wrap_up import wrap_up_of
from elastic_agent.prompts.marker_profiles import MarkerText, marker_text
from elastic_agent.validation import field, integer, real

from .agent import AgentConfig
from .budgets import BudgetsConfig
from .data import DataConfig
from .fields import OneOrSeveral
from .observe import SamplesConfig, ValidationConfig
from .reward import RewardConfig

DEFECTS = ("forced-close-in-loss", "inert-clipping", "fake-end")
Defect = Literal["forced-close-in-loss", "inert-clipping", "fake-end"]


class ServerConfig(Section):
    """The vLLM servers that sample, for the engine "vllm-server". They serve the base of the run, started as
    docs/train.md says for each way of `weights`. VLLM_API_KEY is sent, if set."""

    urls: Annotated[tuple[str, ...], OneOrSeveral, Field(min_length=1)] = ("http://localhost:8000/v1",)
    """Where they are, up to and with /v1; samples are dealt out evenly. Each a vLLM with one API server (its
    default): of several, one alone would hear of a new adapter."""
    base: str | None = None
    """The name under which they serve the base; null: the one that `base` says."""
    weights: Literal["adapters", "folder", "nccl"] | None = None
    """How the weights in training get there before each batch. "adapters": those of `lora`, loaded by name.
    "folder": all weights (adapters merged), which a server reloads from a folder. "nccl": all weights, from
    GPU to GPU, by TRL's client. null: adapters with `lora`, folder without."""
    folder: Path | None = None
    """Folder in which the servers find adapters or weights, under the same path as this process; null:
    adapters/ or weights/ in the output."""
    concurrency: Count = 64
    """Samples in flight at one server."""
    connect_timeout: Seconds = 10.0
    """Seconds to reach a server."""
    idle_timeout: Seconds = 300.0
    """Seconds without a token after which a sample counts as lost, waiting in the server's queue included."""
    retries: Natural = 8
    """Tries in a row that may bring no sample at all before the run stops, with a checkpoint."""
    backoff: Positive = 1.0
    """Seconds before the first retry; doubled each time, up to 60. 8 retries from 1 s on wait 3 minutes."""


class VllmConfig(Section):
    """vLLM in the process that trains, for the engine "vllm": it has a copy of the weights, which gets those
    in training before each batch. It runs in the environment of `make vllm`."""

    memory: Annotated[float, field(real, above=True, most=1.0)] = 0.3
    """Share of a GPU's memory for the copy and for what vLLM remembers of its samples; on a CPU
    VLLM_CPU_KVCACHE_SPACE says it, in GiB."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the copy; null: `device.precision`. The loss is corrected for the difference."""
    eager: bool = False
    """Without CUDA graphs: starts sooner, samples slower. A CPU has none."""
    rows: Count = 256
    """Samples decoded together, on one device."""
    sleep: bool = True
    """Give the GPU's memory back while the trainer updates; the copy is loaded anew before each batch. A CPU
    keeps it."""


def _sentence(text: str) -> str:
    wrap_up_of(text)
    return text


class RolloutConfig(Section):
    """How samples are made."""

    prompts: Count = 16
    """Problems a batch, over all devices."""
    group: Annotated[int, field(integer, least=2, of="")] = 12
    """Samples a problem; all of one group share one budget."""
    context: Count = 512
    """Most tokens of a sample, prompt included: the bound of unlimited thinking."""
    temperature: Annotated[float, field(real, above=True, most=MOST_TEMPERATURE)] = 1.0
    """Sampling temperature; the loss divides by it too, so what is sampled is what is trained."""
    top_p: Annotated[float, field(real, above=True, most=1.0)] = 1.0
    """Nucleus sampling; below 1 the sampled distribution is no longer quite the trained one."""
    engine: str = "transformers"
    """What decodes: "transformers", in this process, with the weights in training; "vllm", in this process,
    with a copy of the weights; or "vllm-server": vLLM servers, on this machine or others, to which the
    weights go before each batch. TRL's own vLLM modes (server, colocate) are not among them: they
    generate in one pass, which has no limit for thinking."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision in which "transformers" decodes: a copy of the weights, which gets those in training before
    each batch; the loss is corrected for the difference. null: no copy, the weights in training decode.
    bfloat16 is faster on GPUs, and on CPUs that have it from some 100M parameters on."""
    ahead: Literal[0, 1] = 0
    """Batches sampled ahead, by "vllm-server" alone. 1: while the trainer learns from a batch, the servers
    sample the next one with the weights before these updates; the loss is corrected for the difference."""
    vllm: VllmConfig = VllmConfig()
    """The copy of "vllm"."""
    server: ServerConfig = ServerConfig()
    """The servers of "vllm-server"."""
    wrap_up: Annotated[str, AfterValidator(_sentence)] | None = None
    """A sentence before a forced close, or "qwen3" or "seed-oss": forced as the close is, and in no loss.
    Serve the model with the same one. null: the bare close."""


class LearningConfig(Section):
    """The update."""

    rate: Positive = 1.5e-4
    """Learning rate of AdamW, after warm-up."""
    schedule: str = "linear"
    """The rate after warm-up, by transformers' name: "linear" falls to zero, "constant" stays."""
    warmup_steps: Natural = 5
    """Updates in which the rate rises."""
    minibatches: Count = 1
    """Parts of a batch, one update each. From two on the policy moves within a batch: the ratio to the
    log-probs at sampling time leaves 1, and clipping can bite."""
    iterations: Count = 1
    """Passes over each batch; updates a batch = minibatches x iterations."""
    clip_low: Positive = 0.2
    """PPO clip range below 1."""
    clip_high: Positive = 0.2
    """PPO clip range above 1."""
    kl: Positive = 0.0
    """Weight of the KL term (low variance, k3) against the base; 0 leaves the base out of memory."""
    entropy: Positive = 0.0
    """Weight of the entropy bonus."""
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """TRL's loss type; "dapo" is the mean over all sampled tokens of the batch."""
    weight_decay: Positive = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this norm."""


class AnytimeConfig(Section):
    """Reward every thinking at several cuts (AnytimeReasoner, arXiv 2505.13438). A sample thinks once, is
    closed and answered at each cut, and a thinking token is credited with the answers at or after it."""

    cuts: Annotated[int, field(integer, least=2, of="")] = 4
    """Cuts of one thinking: one from each of so many equal slices of `budgets`, the same for a whole group.
    As many as a mixture has parts: its t*, every time."""
    solutions: Count = 1
    """Solutions sampled at each cut. Samples in one batch that TRL sees: prompts x group x cuts x this."""
    baseline: Literal["group", "budget-relative"] = "group"
    """What a reward is compared with. "group": the other samples at the same cut. "budget-relative" (BRPO):
    for thinking, partly what the same thinking earned at its earlier cuts."""

    @property
    def rows(self) -> int:
        """Solutions, and so rows of a batch, a sample."""
        return self.cuts * self.solutions


class LoraConfig(Section):
    """Train low-rank adapters (peft) and leave the base as it is. The model written is merged."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Count = 32
    """Scale: alpha / rank multiplies what the adapters add."""
    dropout: Annotated[float, field(real, most=0.99)] = 0.0
    """Dropout in front of the adapters. It makes the ratio differ from 1 by itself: better left at 0."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get an adapter."""


class DeviceConfig(Section):
    """How a run lies on the hardware. Nothing here changes what is learnt, rounding aside."""

    microbatch: Count | None = None
    """Samples in one forward and backward pass on one device; null: a whole mini-batch at once."""
    bucket_tokens: Count = 8192
    """Padded tokens in one forward pass of the log-probs; batches mix short and long samples."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes in it, with the weights kept in float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """What computes attention in training, reference model included: "sdpa" is torch's; "flash_attention_2"
    and "flash_attention_3" need their package, a GPU and bfloat16, and no masks of all pairs of tokens.
    Rollouts in process always decode with torch's."""
    threads: Count = 1
    """torch threads on a CPU."""
    shard: Literal["none", "fsdp2", "zero3"] = "none"
    """How several processes hold weights and optimizer: "none", all of it in each; "fsdp2" (torch's fully
    sharded data parallel) or "zero3" (DeepSpeed's ZeRO-3), a part in each. Rollouts in process gather the
    weights while they decode."""
    timeout: Seconds = 1800.0
    """Seconds that a process waits for the others before the run stops with an error."""


class CheckpointConfig(Section):
    """What survives a crash."""

    every: Count = 20
    """Batches between checkpoints. Each holds the whole state: a resumed run ends with the same weights."""
    keep: Count = 2
    """Checkpoints to keep; older ones are removed once a newer one is complete."""


class About(Section):
    """What a preset says of itself; no run reads it."""

    what: str = ""
    """Which recipe this is, and from where."""
    launch: str = ""
    """The command."""
    memory: str = ""
    """Memory on a device: an estimate, with the arithmetic."""
    time: str = ""
    """Time of the run: an estimate, with the arithmetic."""


class MarkersConfig(Section):
    """What begins and ends thinking. A known pair's name may stand for it: think, seed, gpt-oss, ..."""

    open: str = ""
    """What begins it; "" where nothing does, or the chat template has written it."""
    close: str
    """What ends it, and what is appended where thinking is cut."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, str):
            found = marker_text(value)
            assert found is not None
            return {"open": found.open, "close": found.close}
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        marker_text((self.open, self.close))
        return self


class TrainConfig(Section):
    """Everything that decides a run."""

    base: str
    """Embedded model (e1-tiny-base), model folder or hub id to start from."""
    output: Path
    """Folder for the model, its log and the checkpoints."""
    seed: Annotated[int, field(integer, of="")] = 0
    """Seeds the problems, the budgets and the sampling."""
    steps: Count
    """Batches of rollouts, each followed by learning.minibatches x learning.iterations updates."""
    agent: AgentConfig | None = None
    """An agent of your own, whose calls share the caps of a task; null: each problem is one call."""
    budgets: Annotated[BudgetsConfig | None, Field(validate_default=True)] = None
    """Which budget each group of samples gets. Required, but of an agent: the scheduler gives its calls their
    budgets, under agent.caps."""
    rollout: RolloutConfig = RolloutConfig()
    """How samples are made."""
    data: DataConfig = DataConfig()
    """Where the problems come from."""
    reward: RewardConfig = RewardConfig()
    """What a solution is worth. Every reward that ships reads the solution alone."""
    learning: LearningConfig = LearningConfig()
    """The update."""
    anytime: AnytimeConfig | None = None
    """Anytime rewards, at several cuts of each thinking; null: each sample has one budget and one answer.
    With learning.loss dapo or dr_grpo every sampled token weighs the same, as it should here."""
    markers: MarkersConfig | None = None
    """What begins and ends the base's thinking, where its tokenizer and chat template don't tell."""
    lora: LoraConfig | None = None
    """Low-rank adapters; null trains all weights."""
    device: DeviceConfig = DeviceConfig()
    """How the run lies on the hardware."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What survives a crash."""
    validation: ValidationConfig = ValidationConfig()
    """Problems that are held out, answered at fixed budgets between batches."""
    sample_table: SamplesConfig = SamplesConfig()
    """Rollouts to read."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further fields of TRL's GRPOConfig, by name: {optim: adamw_8bit, importance_sampling_level: sequence,
    scale_rewards: none, run_name: tonight, model_init_kwargs: {use_kernels: true}}. A field that another one
    of ours decides is refused, with the name of ours."""
    report_to: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """Where metrics go besides metrics.csv, by transformers' name: wandb, tensorboard, trackio, ..."""
    authors_compat: tuple[Defect, ...] = ()
    """Defects of the authors' code to reproduce; true means all. "forced-close-in-loss": the close that was
    appended is trained on; "inert-clipping": the ratio is not clipped; "fake-end": a solution cut off by s is
    trained to end there, when the tokenizer pads with its end of text. Not among them: end of text while
    thinking, where theirs masks what follows and ours takes it out and lets the model answer."""
    about: About = About()
    """What a preset says of itself."""

    @field_validator("budgets")
    @classmethod
    def _given_but_for_an_agent(cls, value: Any, given: ValidationInfo) -> Any:
        if value is None and given.data.get("agent", 1) is None:  # 1: it has faults of its own
            raise PydanticCustomError("missing", "Field required")
        return value

    @field_validator("authors_compat", mode="before")
    @classmethod
    def _all_or_some(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return DEFECTS if value else ()
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        if self.agent is not None:
            return self._goes_with_an_agent()
        assert self.budgets is not None
        l1 = self.reward.length.startswith("l1")
        if l1 and self.budgets.stated is None and self.reward.length_target is None:
            raise ValueError(
                f"reward.length {self.reward.length} needs a length: set budgets.stated, to have it in "
                f"the prompt, or reward.length_target"
            )
        if self.budgets.stated is not None and not l1:
            raise ValueError(
                f"budgets.stated {self.budgets.stated} only asks for the length: set reward.length to l1-max "
                f"or l1-exact, so that keeping to it is worth something"
            )
        if self.validation.every and self.anytime is not None:
            raise ValueError("validation: only runs of single calls are validated; leave one of the two out")
        return self

    def _goes_with_an_agent(self) -> Self:
        """Refuse what is for single calls."""
        for name, given, why in (
            ("budgets", self.budgets is not None, "the scheduler gives an agent's calls their budgets"),
            ("reward", self.reward != RewardConfig(), "an agent returns its reward"),
            ("anytime", self.anytime is not None, "it cuts single calls"),
            ("validation", bool(self.validation.every), "only runs of single calls are validated"),
            ("rollout.wrap_up", self.rollout.wrap_up is not None, "set agent.llm: {wrap_up: ...}"),
        ):
            if given:
                raise ValueError(f"agent: leave {name} out: {why}")
        if set(self.authors_compat) - {"inert-clipping"}:
            raise ValueError("authors_compat: the defects of a single call can't be reproduced with agent")
        return self

    @property
    def named_markers(self) -> MarkerText | None:
        """The markers that the config names, if any."""
        return None if self.markers is None else marker_text((self.markers.open, self.markers.close))

    @property
    def updates(self) -> int:
        """Optimizer updates a batch."""
        return self.learning.minibatches * self.learning.iterations

    @property
    def samples(self) -> int:
        """Samples a batch, over all devices."""
        return self.rollout.prompts * self.rollout.group

    @property
    def rows(self) -> int:
        """Rows a batch as TRL sees them, over all devices: anytime rewards make several of a sample."""
        return self.samples * (1 if self.anytime is None else self.anytime.rows)
