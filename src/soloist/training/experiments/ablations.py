"""The paper's ablations as plans: what is tried, and the paper's own figures beside it.

Nothing runs here; `trials.py` does what is planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from soloist.checkpoints.published import backbone_choice
from soloist.config import Config
from soloist.config.presets import SOLO_MASK_WEIGHT, override
from soloist.errors import ConfigError, near_names

Kind = Literal["free masks", "training", "predictions", "finetuning"]

PRESET = "the preset"
ALMOST_ZERO = 1e-9


@dataclass(frozen=True)
class Trial:
    """One thing that is done, and measured on the validation set.

    Attributes:
        name: Of its files.
        kind: `free masks` of the validation images; a `training` of SOLO; `predictions` of the
            network of `after` with other options; a `finetuning` of it with some true labels.
        config: Options, with the seed and the steps.
        after: The training it resumes from. A training that resumes from one learns from its
            pseudo-labels.
    """

    name: str
    kind: Kind
    config: Config
    after: Trial | None = None


@dataclass(frozen=True)
class Column:
    """A figure of a table's rows.

    Attributes:
        title: Its heading.
        kind: Which of a row's trials it is of.
        metric: Its name in their figures.
    """

    title: str
    kind: Kind
    metric: str


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        title: What is tried.
        trials: By kind, a trial for each seed.
        paper: The paper's own figure on COCO, with the tag of its source.
    """

    title: str
    trials: Mapping[Kind, tuple[Trial, ...]]
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """An ablation.

    Attributes:
        name: Its word on the command line.
        title: What it compares, and its number in the paper.
        columns: Figures shown.
        rows: What is compared.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


MASK_COLUMNS: tuple[tuple[str, str], ...] = (
    ("AR100", "mask_ar100"),
    ("AP", "mask_ap"),
    ("AP50", "mask_ap50"),
    ("AP S", "mask_ap_s"),
    ("AP M", "mask_ap_m"),
    ("AP L", "mask_ap_l"),
)
NETWORK_COLUMNS: tuple[tuple[str, str], ...] = (
    ("AP", "mask_ap"),
    ("AP50", "mask_ap50"),
    ("AP75", "mask_ap75"),
    ("AR100", "mask_ar100"),
    ("box AP50", "box_ap50"),
)

Change = tuple[str, Mapping[str, Any], str]
"""Title, options nested by section, the paper's figure."""

# Figures are FreeSOLO's own, of COCO; [S] was read in a digest of the paper, not in itself.
MASK_CHANGES: tuple[Change, ...] = (
    (PRESET, {}, ""),
    ("query scales 1", {"free_mask": {"query_scales": [1.0]}}, "8.7 AR [S]"),
    ("query scales 1, 1/2", {"free_mask": {"query_scales": [1.0, 0.5]}}, ""),
    ("query scales 1, 1/2, 1/4", {"free_mask": {"query_scales": [1.0, 0.5, 0.25]}}, "11.5 AR [S]"),
    ("query scale 1/4 alone", {"free_mask": {"query_scales": [0.25]}}, ""),
    ("threshold 0.4", {"free_mask": {"mask_threshold": 0.4}}, ""),
    ("threshold 0.5, the paper's", {"free_mask": {"mask_threshold": 0.5}}, ""),
    ("threshold 0.6", {"free_mask": {"mask_threshold": 0.6}}, ""),
    ("threshold 0.7", {"free_mask": {"mask_threshold": 0.7}}, ""),
    ("Matrix NMS, sigma 0.5", {"free_mask": {"nms_sigma": 0.5}}, ""),
    ("Matrix NMS, sigma 8", {"free_mask": {"nms_sigma": 8.0}}, ""),
    ("no NMS", {"free_mask": {"nms_sigma": ALMOST_ZERO}}, ""),
    ("all parts of a mask", {"free_mask": {"largest_part": False}}, ""),
    ("the largest part of a mask", {"free_mask": {"largest_part": True}}, ""),
)

WEAK_OFF = {"max_projection": 0.0, "avg_projection": 0.0, "pairwise_affinity": 0.0}
LOSS_CHANGES: tuple[Change, ...] = (
    (PRESET, {}, ""),
    (
        "average projections weighed 0.1, the paper's",
        {"loss": {"avg_projection": 0.1}},
        "3.3 AP [S]",
    ),
    (
        "dice of whole masks, no weak loss",
        {"loss": {**WEAK_OFF, "full_mask_dice": SOLO_MASK_WEIGHT}},
        "1.7 AP [S]",
    ),
    ("no average projections", {"loss": {"avg_projection": 0.0}}, "2.0 AP [S]"),
    ("no maximum projections", {"loss": {"max_projection": 0.0}}, "lower, figure unknown [S]"),
    ("no pairwise affinity", {"loss": {"pairwise_affinity": 0.0}}, "lower, figure unknown [S]"),
)

INFERENCE_CHANGES: tuple[Change, ...] = (
    (PRESET, {}, ""),
    (
        "Matrix NMS, Gaussian, the paper's",
        {"inference": {"nms": "matrix", "nms_kernel": "gaussian", "nms_sigma": 2.0}},
        "",
    ),
    ("Matrix NMS, linear", {"inference": {"nms": "matrix", "nms_kernel": "linear"}}, ""),
    ("mask NMS, IoU 0.5", {"inference": {"nms": "mask", "nms_threshold": 0.5}}, ""),
    ("candidates from 0.05", {"inference": {"category_threshold": 0.05}}, ""),
    ("candidates from 0.2", {"inference": {"category_threshold": 0.2}}, ""),
    ("pixels above 0.4", {"inference": {"mask_threshold": 0.4}}, ""),
    ("pixels above 0.6", {"inference": {"mask_threshold": 0.6}}, ""),
    ("all parts of a mask", {"inference": {"largest_part": False}}, ""),
    ("the largest part of a mask", {"inference": {"largest_part": True}}, ""),
)

SEMANTIC_CHANGES: tuple[Change, ...] = (
    ("with, weight 4", {"loss": {"semantic": 4.0}}, "25.6 AP [S]"),
    ("without", {"loss": {"semantic": 0.0}}, "24.9 AP [S]"),
)

TABLES = ("masks", "pretrain", "losses", "inference", "selftrain", "semantic")
"""Words of the tables, those first that take the least time."""


def plan_tables(
    names: Sequence[str],
    base: Config,
    *,
    seeds: Sequence[int],
    backbones: Sequence[str] = (),
    finetuning: bool = False,
) -> list[Table]:
    """The tables as plans; what several rows or tables need is one trial.

    Args:
        names: Of `TABLES`; `all` stands for all of them.
        base: What every row changes a little: a preset with the steps of a training.
        seeds: Of the trainings. Free masks are made with the first.
        backbones: More rows of the table `pretrain`, as for `--backbone`.
        finetuning: Whether the table `semantic` has the trainings with true labels.

    Raises:
        ConfigError: If a name is unknown or twice, or a row's options are refused.
    """
    wanted = TABLES if tuple(names) == ("all",) else tuple(names)
    for name in wanted:
        if name not in TABLES:
            raise ConfigError(f"no table named {name!r}; {near_names(name, (*TABLES, 'all'))}")
    for what, given in (("--table", wanted), ("--seeds", tuple(seeds))):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"{what} must be different ones, got {list(given)}")
    planner = _Planner(base, tuple(seeds), tuple(backbones), finetuning)
    # Named first, so that a trial has one name whichever tables are asked for.
    planner.name_preset()
    return [planner.table(name) for name in wanted]


def trials_of(tables: Sequence[Table]) -> list[Trial]:
    """Each trial of the tables once, seed by seed, none before what it resumes from."""
    found: dict[Trial, None] = {}
    for table in tables:
        for row in table.rows:
            for trials in row.trials.values():
                for trial in trials:
                    found.update(dict.fromkeys(_with_all_before(trial)))
    return sorted(found, key=lambda trial: trial.config.seed)


def _with_all_before(trial: Trial) -> list[Trial]:
    before = [] if trial.after is None else _with_all_before(trial.after)
    return [*before, trial]


class _Planner:
    def __init__(
        self, base: Config, seeds: tuple[int, ...], backbones: tuple[str, ...], finetuning: bool
    ) -> None:
        self._base = base
        self._seeds = seeds
        self._backbones = backbones
        self._finetuning = finetuning
        self._known: dict[tuple[Kind, Config, Trial | None], Trial] = {}

    def name_preset(self) -> None:
        """Names what is done by the preset itself."""
        self._free_masks(f"masks {PRESET}", {})
        self._trainings(PRESET, {})

    def table(self, name: str) -> Table:
        """A table by its word."""
        return {
            "masks": self._masks,
            "pretrain": self._pretrain,
            "losses": self._losses,
            "inference": self._inference,
            "selftrain": self._selftrain,
            "semantic": self._semantic,
        }[name]()

    def _masks(self) -> Table:
        rows = [
            Row(title, {"free masks": (self._free_masks(f"masks {title}", change),)}, paper)
            for title, change, paper in MASK_CHANGES
        ]
        return Table(
            "masks",
            "Free Mask: query scales, threshold, NMS (the paper's table 7b)",
            _columns("free masks", MASK_COLUMNS),
            tuple(rows),
        )

    def _pretrain(self) -> Table:
        choices: dict[str, Mapping[str, Any]] = {
            f"{PRESET}: {self._base.backbone.name}, {self._base.backbone.weights}": {},
            "random weights": {"backbone": {"weights": "none"}},
        }
        choices |= {name: {"backbone": backbone_choice(name)} for name in self._backbones}
        paper = "11.5 AR with DenseCL, the best of four [S]"
        rows = [
            Row(title, {"free masks": (self._free_masks(f"backbone {title}", change),)}, given)
            for (title, change), given in zip(
                choices.items(), [paper, *[""] * (len(choices) - 1)], strict=True
            )
        ]
        return Table(
            "pretrain",
            "What Free Mask's backbone learned from (the paper's table 7a)",
            _columns("free masks", MASK_COLUMNS),
            tuple(rows),
        )

    def _losses(self) -> Table:
        rows = [
            Row(title, {"training": self._trainings(title, change)}, paper)
            for title, change, paper in LOSS_CHANGES
        ]
        return Table(
            "losses",
            "Weak losses, each left out, and whole masks (the paper's tables 7d and 7e)",
            _columns("training", NETWORK_COLUMNS),
            tuple(rows),
        )

    def _inference(self) -> Table:
        rows = []
        for title, change, paper in INFERENCE_CHANGES:
            trials = tuple(
                self._trial("predictions", f"predict {title}", self._changed(change, seed), start)
                for seed, start in zip(self._seeds, self._trainings(PRESET, {}), strict=True)
            )
            rows.append(Row(title, {"predictions": trials}, paper))
        return Table(
            "inference",
            "The network's NMS and thresholds",
            _columns("predictions", NETWORK_COLUMNS),
            tuple(rows),
        )

    def _selftrain(self) -> Table:
        coarse = self._trainings(PRESET, {})
        first = self._rounds("round 1", coarse)
        second = self._rounds("round 2", first)
        steps = self._base.train.steps
        longer = self._trainings("twice the steps", {"train": {"steps": 2 * steps}})
        return Table(
            "selftrain",
            "Rounds of self-training (the paper's table 7c)",
            _columns("training", NETWORK_COLUMNS),
            (
                Row("free masks", {"training": coarse}, "3.3 AP [S]"),
                Row("one round", {"training": first}, "4.0 AP [S], 9.8 AP50 [P]"),
                Row("two rounds", {"training": second}, "no further gain [S]"),
                Row("free masks, twice the steps (a check)", {"training": longer}),
            ),
        )

    def _semantic(self) -> Table:
        rows = []
        for title, change, paper in SEMANTIC_CHANGES:
            trained = self._trainings(f"embeddings {title}", change)
            trials: dict[Kind, tuple[Trial, ...]] = {"training": trained}
            if self._finetuning:
                trials["finetuning"] = tuple(
                    self._trial("finetuning", f"finetune {one.name}", one.config, one)
                    for one in trained
                )
            rows.append(Row(title, trials, paper))
        columns = _columns("training", NETWORK_COLUMNS)
        if self._finetuning:
            columns += (Column("class AP, finetuned", "finetuning", "mask_ap"),)
        return Table(
            "semantic",
            "The semantic embedding (the paper's table 7f: class AP, finetuned with 10 % of masks)",
            columns,
            tuple(rows),
        )

    def _free_masks(self, name: str, change: Mapping[str, Any]) -> Trial:
        config = self._changed(change, self._seeds[0])
        # What a row has no use for must not part it from its equals.
        plain = Config()
        config = replace(
            config, model=plain.model, loss=plain.loss, train=plain.train, inference=plain.inference
        )
        return self._trial("free masks", name, config)

    def _trainings(self, name: str, change: Mapping[str, Any]) -> tuple[Trial, ...]:
        return tuple(
            self._trial("training", name, self._changed(change, seed)) for seed in self._seeds
        )

    def _rounds(self, name: str, before: Sequence[Trial]) -> tuple[Trial, ...]:
        return tuple(
            self._trial("training", name, self._changed({}, one.config.seed), one) for one in before
        )

    def _changed(self, change: Mapping[str, Any], seed: int) -> Config:
        return override(replace(self._base, seed=seed), change, where="ablation")

    def _trial(self, kind: Kind, name: str, config: Config, after: Trial | None = None) -> Trial:
        words = [character if character.isalnum() else " " for character in name.lower()]
        slug = "-".join("".join(words).split())
        seed = "" if kind == "free masks" else f"-seed{config.seed}"
        slug = slug.removesuffix(seed) + seed
        return self._known.setdefault((kind, config, after), Trial(slug, kind, config, after))


def _columns(kind: Kind, columns: Sequence[tuple[str, str]]) -> tuple[Column, ...]:
    return tuple(Column(title, kind, metric) for title, metric in columns)


def with_steps(config: Config, steps: int) -> Config:
    """A configuration whose trainings have N steps; their warm-ups shrink or grow with them.

    Raises:
        ConfigError: If that leaves no step.
    """
    if steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {steps}")
    share = steps / config.train.steps
    return replace(
        config,
        train=replace(
            config.train, steps=steps, warmup_steps=round(share * config.train.warmup_steps)
        ),
        loss=replace(
            config.loss,
            pairwise_warmup_steps=round(share * config.loss.pairwise_warmup_steps),
        ),
    )
