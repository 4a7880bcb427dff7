"""A Dockerfile as its instructions, and what a stage amounts to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

_CONTINUED = re.compile(r"\\\n")
_PAIR = re.compile(r'([A-Za-z_]+)=("(?:[^"])*"|\S*)')


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One of them: RUN and what stands behind it."""

    name: str
    text: str

    def words(self) -> list[str]:
        """The exec form, or words."""
        return json.loads(self.text) if self.text.startswith("[") else self.text.split()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """From one FROM to the next.

    Attributes:
        name: of its AS.
        parent: what it stands on: a stage's name, or an image.
        instructions: all but FROM.
    """

    name: str
    parent: str
    instructions: list[Instruction] = field(default_factory=list)


class Dockerfile:
    """All stages of a file, by name."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith("#"))
        self.stages: dict[str, Stage] = {}
        for line in filter(None, _CONTINUED.sub("", text).splitlines()):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                parent, word, stage = rest.split()
                assert word == "AS"
                current = self.stages[stage] = Stage(name=stage, parent=parent)
            else:
                current.instructions.append(Instruction(name=name, text=rest.strip()))

    def lineage(self, stage: str) -> list[Stage]:
        """The stages that one is made of, the oldest first."""
        found = [self.stages[stage]]
        while found[0].parent in self.stages:
            found.insert(0, self.stages[found[0].parent])
        return found

    def last(self, stage: str, name: str) -> str:
        """What the last instruction of a name says; HEALTHCHECK's options included."""
        said = [i.text for s in self.lineage(stage) for i in s.instructions if i.name == name]
        return said[-1]

    def command(self, stage: str, name: str) -> list[str]:
        """The words of ENTRYPOINT or CMD, or of HEALTHCHECK's CMD."""
        text = self.last(stage, name)
        words: list[str] = json.loads(text[text.index("[") :])
        return words

    def environment(self, stage: str) -> dict[str, str]:
        """What ENV and ARG set, ARG with its default."""
        values: dict[str, str] = {}
        for one in self.lineage(stage):
            for instruction in one.instructions:
                if instruction.name in ("ENV", "ARG"):
                    values |= {k: v.strip('"') for k, v in _PAIR.findall(instruction.text)}
        return values
