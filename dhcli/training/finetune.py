"""A detector for new data that starts from a model that knows something already."""

from __future__ import annotations

from pathlib import Path

from dhcli.config.schema import Config
from dhcli.models.build import build_detector
from dhcli.report.plain import text_lines
from dhcli.report.sheet import Column, Sheet
from dhcli.training.data import load_data
from dhcli.training.fit_anchors import with_fitted_anchors
from dhcli.training.inherit import inheritance_lines, with_learned_order
from dhcli.training.loop import TrainingResult
from dhcli.training.run import Session, start_run, with_absolute_paths
from dhcli.training.run_folder import require_new_run
from dhcli.training.step import seed_all
from dhcli.weights.model_file import ModelFile
from dhcli.weights.open import origin_lines
from dhcli.weights.transfer import Transfer, transfer


def finetune(config: Config, session: Session, source: ModelFile, weights: Path) -> TrainingResult:
    """Train a detector for the classes of the data, starting from `source`, read from `weights`.

    Everything but the predictors is copied; of those, the rows of classes known by name or by
    `finetune.aliases`. Raises DhError where data or weights cannot be used.
    """
    session.team.from_first(lambda: require_new_run(session.out, overwrite=session.overwrite))
    config = with_absolute_paths(config)
    data = session.team.from_first(
        lambda: load_data(config.data, config.train.seed, session.journal, source.classes)
    )
    config = with_learned_order(config, data, source)
    config = with_fitted_anchors(config, data.train, session.journal)
    seed_all(config.train.seed)
    detector = build_detector(config, len(data.train.classes))
    state, copied = transfer(source, detector, data.train.classes, config.finetune.aliases)
    detector.load_state_dict(state)
    session.journal.say(f"weights: {weights}")
    inherited = inheritance_lines(config, source.config)
    for line in (*origin_lines(weights, source), *inherited, *transfer_lines(copied)):
        session.journal.say(line)
    return start_run(config, detector, data, session)


def transfer_lines(copied: Transfer) -> list[str]:
    """The table of what was copied: a line per class, and what was left over."""
    columns = (Column("class"), Column("starts from"), Column("how"))
    rows = tuple((row.name, row.source, row.how) for row in copied.rows)
    lines = text_lines(Sheet("Predictors", columns, rows))
    return [*lines, copied.summary(), *copied.rest_lines()]
