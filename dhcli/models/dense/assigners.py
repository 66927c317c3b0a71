"""Which prior answers for which object, by the kind of the section `assign`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dhcli.config.schema.dense import (
    AtssAssign,
    IouAssign,
    MixtureAssign,
    RangeAssign,
    SimOtaAssign,
    UniformAssign,
)
from dhcli.ops.atss import assign_atss
from dhcli.ops.batch import Target
from dhcli.ops.match import match_boxes
from dhcli.ops.mixture import assign_mixture
from dhcli.ops.priors import Owned, Seen, owned, spare_ignored
from dhcli.ops.ranges import assign_ranges
from dhcli.ops.simota import assign_simota
from dhcli.ops.uniform import assign_uniform


def assign(seen: Seen, target: Target, config: Any) -> Owned:
    """The object of each prior of one image; regions to ignore hold for every kind."""
    if isinstance(config, SimOtaAssign):  # it asks where the middle of a cell lies
        seen = seen._replace(priors=seen.priors.moved(0.5))
    found = ASSIGNERS[type(config)](seen, target, config)
    return found._replace(owners=spare_ignored(found.owners, seen.priors, target.ignore))


def _by_iou(seen: Seen, target: Target, config: IouAssign) -> Owned:
    found = match_boxes(
        seen.priors.boxes,
        target.boxes,
        target.ignore[:0],
        positive_iou=config.positive_iou,
        negative_iou=config.negative_iou,
        best_for_each=config.best_for_each,
    )
    return owned(found)


ASSIGNERS: dict[type[Any], Callable[[Seen, Target, Any], Owned]] = {
    IouAssign: _by_iou,
    AtssAssign: lambda seen, target, config: owned(assign_atss(seen, target, config.candidates)),
    UniformAssign: assign_uniform,
    MixtureAssign: lambda seen, target, config: owned(assign_mixture(seen, target, config)),
    RangeAssign: lambda seen, target, config: owned(assign_ranges(seen, target, config)),
    SimOtaAssign: lambda seen, target, config: owned(assign_simota(seen, target, config)),
}
"""What assigns, by the class of the section."""
