"""From tasks to model fields: the edits of a family's parameters, for many worlds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metarl.base.errors import UserError
from metarl.simulation.edits import NEVER_NEGATIVE, nominal_value

if TYPE_CHECKING:
    from metarl.tasks.family import TaskFamily


class ModelFields:
    """What the parameters of a family do to the fields of its model."""

    def __init__(self, family: TaskFamily) -> None:
        """Look up what each edit of the family changes."""
        self.family, self.model = family, family.compile()
        self._rows = [[edit.rows(self.model) for edit in p.edits] for p in family.params]

    def of(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the fields that tasks change, by name, (n, …), always from the nominal model.

        Args:
            values: (n, P), a task a row.

        Raises:
            UserError: a field would be what no physics has, such as a negative mass.
        """
        fields: dict[str, np.ndarray] = {}
        by_param = self.family.distribution.by_param(values)
        for param, rows in zip(self.family.params, self._rows, strict=True):
            value = by_param[param.name].reshape(len(values), -1)
            for edit, which in zip(param.edits, rows, strict=True):
                if edit.field not in fields:
                    nominal = nominal_value(self.model, edit.field)
                    fields[edit.field] = np.repeat(nominal[None], len(values), 0)
                edit.apply(fields[edit.field], which, value)
        for name, field in fields.items():
            if name in NEVER_NEGATIVE and (field < 0).any():
                self._refuse(name, f"{field.min():g}", "be negative")
            if name.endswith("range") and (field[..., 0] > field[..., 1]).any():
                low, high = field[field[..., 0] > field[..., 1]][0]
                self._refuse(name, f"{low:g} to {high:g}", "end below its start")
        return fields

    def _refuse(self, field: str, would_be: str, must: str) -> None:
        names = [p.name for p in self.family.params if any(e.field == field for e in p.edits)]
        raise UserError(
            f"family '{self.family.name}', parameter {' and '.join(map(repr, names))}: {field} "
            f"would be {would_be} in one of the tasks, and must not {must}"
        )
