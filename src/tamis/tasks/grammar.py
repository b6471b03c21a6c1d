"""How a task is put together: pieces of code with their wordings become a composition.

A list-like task is a selection (a filter or a slice), then a map, then a fold. A conditional is a test of two integers
and two results. A composition is the reference code; one composition has many wordings.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

Constant = int | str

FRAMES = ("Return {inner}.", "Compute {inner}.", "Find {inner}.", "Give {inner}.", "Get {inner}.", "Produce {inner}.")


@dataclass(frozen=True)
class Piece:
    """One building block.

    Attributes:
        name: Its name in compositions.
        code: Template of its code. ``{x}``: the element or the elements; ``{k}``: the constant.
        wordings: Ways to say it; ``{inner}`` is what it applies to.
        constants: What ``{k}`` may be; empty when there is none.
        weight: How often it is drawn, relative to its neighbours.
        gives: For a map: ``text``, ``number``, or ``same`` for the elements as they are.
        takes: For a fold: ``any``, or the only kind that it is used with; ``same`` for unchanged elements.
        bare: For a fold: its code when the elements are not in a comprehension; empty for the same code.
        element: For a fold: a call around each element, such as ``str({x})``.
    """

    name: str
    code: str
    wordings: tuple[str, ...]
    constants: tuple[Constant, ...] = ()
    weight: float = 1.0
    gives: str = "same"
    takes: str = "any"
    bare: str = ""
    element: str = "{x}"


@dataclass(frozen=True)
class Chosen:
    """A piece with its constant."""

    piece: Piece
    constant: Constant | None

    @property
    def name(self) -> str:
        """Name and constant: what tells compositions apart."""
        return self.piece.name if self.constant is None else f"{self.piece.name} {self.constant}"

    def code(self, x: str) -> str:
        """The code, applied to ``x``."""
        return self.piece.code.format(x=x, k=self.constant)

    def wordings(self) -> tuple[str, ...]:
        """The wordings with the constant in place and ``{inner}`` still open."""
        return tuple(wording.format(inner="{inner}", k=self.constant) for wording in self.piece.wordings)


@dataclass(frozen=True)
class Composition:
    """A reference solution and the ways to ask for it.

    Attributes:
        name: Family and pieces; equal names mean equal code.
        family: Name of the family.
        parameters: The parameters of the function, as code.
        code: The reference body, not yet ``tidy``.
        layers: Wordings from the inside out; each ``{inner}`` takes the layer before.
        constants: The constants in the code, for inputs close to them.
    """

    name: str
    family: str
    parameters: str
    code: str
    layers: tuple[tuple[str, ...], ...]
    constants: tuple[Constant, ...]

    def wording(self, rng: random.Random) -> str:
        """One way to ask for it, as a sentence."""
        text = ""
        for layer in (*self.layers, FRAMES):
            text = rng.choice(layer).format(inner=text)
        return text


@dataclass(frozen=True)
class SequenceFamily:
    """A family of tasks over one list-like argument.

    Attributes:
        name: Its name.
        parameter: The argument.
        element: The name of one element in comprehensions.
        kind: What the elements are: ``number`` or ``text``.
        everything: The selection of all elements.
        filters: Conditions on one element.
        slices: Slices of the argument.
        maps: Functions of one element.
        folds: Functions of all elements.
    """

    name: str
    parameter: str
    element: str
    kind: str
    everything: Piece
    filters: tuple[Piece, ...]
    slices: tuple[Piece, ...]
    maps: tuple[Piece, ...]
    folds: tuple[Piece, ...]

    def draw(self, rng: random.Random) -> Composition:
        """Draws one composition that does something."""
        while True:
            selection = choose(rng, (self.everything, *self.filters, *self.slices))
            change, fold = choose(rng, self.maps), choose(rng, self.folds)
            if self._fit(change.piece, fold.piece):
                composition = self._compose(selection, change, fold)
                if composition.code != f"return {self.parameter}":
                    return composition

    def _fit(self, change: Piece, fold: Piece) -> bool:
        """Whether the fold takes what the map gives."""
        kind = self.kind if change.gives == "same" else change.gives
        return fold.takes in ("any", kind, change.gives)

    def _compose(self, selection: Chosen, change: Chosen, fold: Chosen) -> Composition:
        x, source, condition = self.element, self.parameter, ""
        if selection.piece in self.slices:
            source = selection.code(self.parameter)
        elif selection.piece is not self.everything:
            condition = f" if {selection.code(x)}"
        mapped = fold.piece.element.format(x=change.code(x))
        bare = not condition and mapped == x
        elements = source if bare else f"[{mapped} for {x} in {source}{condition}]"
        template = fold.piece.bare if bare and fold.piece.bare else fold.piece.code
        return Composition(
            name=f"{self.name}: {selection.name}, {change.name}, {fold.name}",
            family=self.name,
            parameters=self.parameter,
            code=f"return {template.format(x=elements, k=fold.constant)}",
            layers=tuple(part.wordings() for part in (selection, change, fold)),
            constants=_constants(selection, change, fold),
        )


@dataclass(frozen=True)
class ConditionalFamily:
    """A family of tasks that choose between two results.

    Attributes:
        name: Its name.
        parameters: The arguments, as code.
        conditions: Tests of the arguments.
        results: Expressions in the arguments.
    """

    name: str
    parameters: str
    conditions: tuple[Piece, ...]
    results: tuple[Piece, ...]

    def draw(self, rng: random.Random) -> Composition:
        """Draws one composition with two different results."""
        condition, yes = choose(rng, self.conditions), choose(rng, self.results)
        no = choose(rng, self.results)
        while no.piece is yes.piece:
            no = choose(rng, self.results)
        code = f"if {condition.code('')}:\n    return {yes.code('')}\nreturn {no.code('')}"
        return Composition(
            name=f"{self.name}: {condition.name}, {yes.name}, {no.name}",
            family=self.name,
            parameters=self.parameters,
            code=code,
            layers=(
                condition.wordings(),
                tuple(f"{wording} if {{inner}}" for wording in yes.wordings()),
                tuple(f"{{inner}}{word} {end}" for word, end in product((", else", ", otherwise"), no.wordings())),
            ),
            constants=_constants(condition, yes, no),
        )


Family = SequenceFamily | ConditionalFamily


def choose(rng: random.Random, pieces: Sequence[Piece]) -> Chosen:
    """Draws a piece by weight, and its constant."""
    piece = rng.choices(pieces, [piece.weight for piece in pieces])[0]
    return Chosen(piece, rng.choice(piece.constants) if piece.constants else None)


def tidy(code: str) -> str:
    """The code as ``ast.unparse`` writes it, indented by four spaces: one spelling for references and bugged copies."""
    return indent(ast.parse(f"def f():\n{_indented(code)}").body[0])


def indent(function: ast.AST) -> str:
    """The body of a parsed function as text.

    Raises:
        ValueError: The node is not a function.
    """
    if not isinstance(function, ast.FunctionDef):
        raise ValueError(f"Expected a function definition, not {type(function).__name__}.")
    return _indented(ast.unparse(function.body))  # type: ignore[arg-type]  # unparse takes a list of statements too


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


def _constants(*parts: Chosen) -> tuple[Constant, ...]:
    return tuple(part.constant for part in parts if part.constant is not None)
