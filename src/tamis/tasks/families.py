"""The vocabulary of the four families: what can be selected, changed, folded and compared, and how people say it."""

from __future__ import annotations

from .grammar import ConditionalFamily, Family, Piece, SequenceFamily

SMALL = (2, 3)
STEPS = (1, 2, 3)
THRESHOLDS = (1, 3, 5, 7)
LETTERS = ("a", "e", "s")


def _slices(things: str, source: str) -> tuple[Piece, ...]:
    """Slices of any sequence; ``things`` names its elements."""
    of = f"{things} {source}"
    return (
        Piece("first", "{x}[:{k}]", (f"the first {{k}} {of}", f"the leading {{k}} {of}"), SMALL),
        Piece("last", "{x}[-{k}:]", (f"the last {{k}} {of}", f"the final {{k}} {of}"), SMALL),
        Piece("after", "{x}[{k}:]", (f"the {of} after the first {{k}}", f"all but the first {{k}} {of}"), SMALL),
        Piece("before", "{x}[:-{k}]", (f"the {of} before the last {{k}}", f"all but the last {{k}} {of}"), SMALL),
        Piece("every other", "{x}[::2]", (f"every second of the {of} from the first", f"the {of} at even positions")),
        Piece("odd places", "{x}[1::2]", (f"every second of the {of} from the second", f"the {of} at odd positions")),
    )


INTS = SequenceFamily(
    name="ints",
    parameter="xs",
    element="x",
    kind="number",
    everything=Piece("all", "", ("the numbers in xs", "all numbers in xs", "the values in xs"), weight=2.0),
    filters=(
        Piece("even", "{x} % 2 == 0", ("the even numbers in xs", "the even values in xs"), weight=2.0),
        Piece("odd", "{x} % 2 == 1", ("the odd numbers in xs", "the odd values in xs"), weight=2.0),
        Piece("positive", "{x} > 0", ("the positive numbers in xs", "the positive values in xs"), weight=1.5),
        Piece("negative", "{x} < 0", ("the negative numbers in xs", "the negative values in xs"), weight=1.5),
        Piece("not negative", "{x} >= 0", ("the non-negative numbers in xs", "the numbers in xs not below 0")),
        Piece("above", "{x} > {k}", ("the numbers in xs above {k}", "the numbers in xs greater than {k}"), THRESHOLDS),
        Piece(
            "at least",
            "{x} >= {k}",
            ("the numbers in xs not below {k}", "the numbers in xs of at least {k}"),
            THRESHOLDS,
        ),
        Piece("below", "{x} < {k}", ("the numbers in xs below {k}", "the numbers in xs less than {k}"), THRESHOLDS),
        Piece(
            "at most", "{x} <= {k}", ("the numbers in xs not above {k}", "the numbers in xs of at most {k}"), THRESHOLDS
        ),
        Piece(
            "multiple", "{x} % {k} == 0", ("the multiples of {k} in xs", "the numbers in xs divisible by {k}"), (3, 4)
        ),
        Piece("no multiple", "{x} % {k} != 0", ("the numbers in xs not divisible by {k}",), (3, 4)),
        Piece("other than", "{x} != {k}", ("the numbers in xs other than {k}", "the numbers in xs except {k}"), (0, 2)),
    ),
    slices=_slices("numbers", "in xs"),
    maps=(
        Piece("same", "{x}", ("{inner}",), weight=5.0),
        Piece(
            "square",
            "{x} * {x}",
            ("the squares of {inner}", "the squared values of {inner}"),
            weight=2.0,
            gives="number",
        ),
        Piece("cube", "{x} ** 3", ("the cubes of {inner}", "the third powers of {inner}"), gives="number"),
        Piece(
            "abs",
            "abs({x})",
            ("the absolute values of {inner}", "the magnitudes of {inner}"),
            weight=1.5,
            gives="number",
        ),
        Piece("negate", "-{x}", ("the negations of {inner}", "the opposites of {inner}"), gives="number"),
        Piece(
            "times", "{x} * {k}", ("{k} times each of {inner}", "each of {inner} times {k}"), (2, 3, 4), gives="number"
        ),
        Piece(
            "plus", "{x} + {k}", ("each of {inner} plus {k}", "each of {inner} increased by {k}"), STEPS, gives="number"
        ),
        Piece(
            "minus", "{x} - {k}", ("each of {inner} minus {k}", "each of {inner} reduced by {k}"), STEPS, gives="number"
        ),
        Piece(
            "modulo",
            "{x} % {k}",
            ("each of {inner} modulo {k}", "the remainders by {k} of {inner}"),
            (3, 4),
            gives="number",
        ),
        Piece("halve", "{x} // {k}", ("each of {inner} floor-divided by {k}",), (2, 3), gives="number"),
    ),
    folds=(
        Piece("sum", "sum({x})", ("the sum of {inner}", "the total of {inner}"), weight=3.0),
        Piece(
            "max", "max({x}, default=0)", ("the largest of {inner}, or 0", "the maximum of {inner}, or 0"), weight=1.5
        ),
        Piece(
            "min", "min({x}, default=0)", ("the smallest of {inner}, or 0", "the minimum of {inner}, or 0"), weight=1.5
        ),
        Piece("count", "len({x})", ("the number of {inner}", "the count of {inner}"), weight=3.0, takes="same"),
        Piece("list", "{x}", ("{inner}", "a list of {inner}"), weight=2.0),
        Piece("reverse", "{x}[::-1]", ("the reversed list of {inner}", "{inner} in reverse order")),
        Piece("sort", "sorted({x})", ("the sorted list of {inner}", "{inner} in increasing order")),
        Piece(
            "sort down",
            "sorted({x}, reverse=True)",
            ("{inner} in decreasing order", "{inner}, largest first"),
            weight=0.7,
        ),
        Piece("distinct", "len(set({x}))", ("the number of distinct values of {inner}",), weight=0.7),
        Piece("dashes", "'-'.join({x})", ("{inner} joined by dashes",), weight=0.7, element="str({x})"),
    ),
)

CHARS = SequenceFamily(
    name="chars",
    parameter="s",
    element="c",
    kind="text",
    everything=Piece("all", "", ("the characters of s", "all characters of s"), weight=2.0),
    filters=(
        Piece("vowel", "{x} in 'aeiou'", ("the lowercase vowels of s", "the characters of s in 'aeiou'"), weight=1.5),
        Piece("no vowel", "{x} not in 'aeiou'", ("the characters of s not in 'aeiou'",), weight=1.5),
        Piece("upper", "{x}.isupper()", ("the uppercase letters of s", "the capital letters of s")),
        Piece("lower", "{x}.islower()", ("the lowercase letters of s", "the small letters of s")),
        Piece("digit", "{x}.isdigit()", ("the digits of s", "the digit characters of s")),
        Piece("letter", "{x}.isalpha()", ("the letters of s", "the alphabetic characters of s")),
        Piece("no digit", "not {x}.isdigit()", ("the characters of s that are not digits",)),
        Piece("no letter", "not {x}.isalpha()", ("the characters of s that are not letters",)),
        Piece(
            "no space", "{x} != ' '", ("the characters of s that are not spaces", "the characters of s except spaces")
        ),
        Piece("other than", "{x} != '{k}'", ("the characters of s except '{k}'",), LETTERS),
    ),
    slices=_slices("characters", "of s"),
    maps=(
        Piece("same", "{x}", ("{inner}",), weight=3.0),
        Piece("to upper", "{x}.upper()", ("{inner} in uppercase", "{inner} as capitals"), gives="text"),
        Piece("to lower", "{x}.lower()", ("{inner} in lowercase", "{inner} as small letters"), gives="text"),
        Piece("swap case", "{x}.swapcase()", ("{inner} with case swapped",), weight=0.7, gives="text"),
        Piece(
            "repeat",
            "{x} * {k}",
            ("{inner} repeated {k} times each", "{k} copies of each of {inner}"),
            (2, 3),
            gives="text",
        ),
        Piece("follow", "{x} + '{k}'", ("{inner} each followed by '{k}'",), ("-", "."), weight=0.7, gives="text"),
    ),
    folds=(
        Piece("join", "''.join({x})", ("{inner}", "a string of {inner}"), weight=2.0, bare="{x}"),
        Piece("dashes", "'-'.join({x})", ("{inner} joined by dashes", "{inner} with dashes between")),
        Piece(
            "reverse",
            "''.join({x})[::-1]",
            ("the reversed string of {inner}", "{inner}, all reversed"),
            bare="{x}[::-1]",
        ),
        Piece("sort", "''.join(sorted({x}))", ("the sorted string of {inner}", "{inner} in sorted order")),
        Piece("list", "{x}", ("a list of {inner}", "the list of {inner}"), bare="list({x})"),
        Piece("count", "len({x})", ("the number of {inner}", "the count of {inner}"), weight=2.0, takes="same"),
        Piece("distinct", "len(set({x}))", ("the number of distinct ones of {inner}", "the distinct count of {inner}")),
        Piece(
            "last",
            "max({x}, default='')",
            ("the largest of {inner}, or ''", "the maximum of {inner}, or ''"),
            weight=0.7,
        ),
    ),
)

WORDS = SequenceFamily(
    name="words",
    parameter="words",
    element="w",
    kind="text",
    everything=Piece("all", "", ("the strings in words", "all strings in words"), weight=2.0),
    filters=(
        Piece("longer", "len({x}) > {k}", ("the strings in words longer than {k}",), (2, 3, 4)),
        Piece("long", "len({x}) >= {k}", ("the strings in words of length at least {k}",), (3, 4, 5)),
        Piece("shorter", "len({x}) < {k}", ("the strings in words shorter than {k}",), (3, 4, 5)),
        Piece(
            "length",
            "len({x}) == {k}",
            ("the strings in words of length {k}", "the strings in words with {k} letters"),
            (2, 3, 4),
        ),
        Piece("starts", "{x}.startswith('{k}')", ("the strings in words that start with '{k}'",), LETTERS),
        Piece("ends", "{x}.endswith('{k}')", ("the strings in words that end with '{k}'",), LETTERS),
        Piece(
            "contains",
            "'{k}' in {x}",
            ("the strings in words that contain '{k}'", "the strings in words with '{k}'"),
            LETTERS,
        ),
        Piece("lacks", "'{k}' not in {x}", ("the strings in words without '{k}'",), LETTERS),
        Piece("filled", "{x} != ''", ("the non-empty strings in words",)),
        Piece("palindrome", "{x} == {x}[::-1]", ("the palindromes in words",), weight=0.5),
    ),
    slices=_slices("strings", "in words"),
    maps=(
        Piece("same", "{x}", ("{inner}",), weight=3.0),
        Piece("to upper", "{x}.upper()", ("{inner} in uppercase", "{inner} as capitals"), gives="text"),
        Piece("to lower", "{x}.lower()", ("{inner} in lowercase",), weight=0.7, gives="text"),
        Piece(
            "title",
            "{x}.capitalize()",
            ("{inner} capitalized", "{inner} with a capital first letter"),
            weight=0.7,
            gives="text",
        ),
        Piece("length", "len({x})", ("the lengths of {inner}", "the sizes of {inner}"), weight=2.0, gives="number"),
        Piece("start", "{x}[:{k}]", ("the first {k} letters of {inner}",), (1, 2, 3), gives="text"),
        Piece("end", "{x}[-{k}:]", ("the last {k} letters of {inner}",), (1, 2, 3), gives="text"),
        Piece("backwards", "{x}[::-1]", ("{inner} spelled backwards", "the reversals of {inner}"), gives="text"),
        Piece("suffix", "{x} + '{k}'", ("{inner} each followed by '{k}'",), ("s", "!"), weight=0.7, gives="text"),
    ),
    folds=(
        Piece("list", "{x}", ("{inner}", "a list of {inner}"), weight=2.0),
        Piece("spaces", "' '.join({x})", ("{inner} joined by spaces", "{inner} with spaces between"), takes="text"),
        Piece("dashes", "'-'.join({x})", ("{inner} joined by dashes", "{inner} with dashes between"), takes="text"),
        Piece("glue", "''.join({x})", ("{inner} joined together", "{inner} as one string"), takes="text"),
        Piece("count", "len({x})", ("the number of {inner}", "the count of {inner}"), weight=2.0, takes="same"),
        Piece("sum", "sum({x})", ("the sum of {inner}", "the total of {inner}"), weight=2.0, takes="number"),
        Piece("max", "max({x}, default=0)", ("the largest of {inner}, or 0",), weight=2.0, takes="number"),
        Piece("longest", "max({x}, key=len, default='')", ("the longest of {inner}, or ''",), takes="text"),
        Piece("shortest", "min({x}, key=len, default='')", ("the shortest of {inner}, or ''",), takes="text"),
        Piece("reverse", "{x}[::-1]", ("the reversed list of {inner}", "{inner} in reverse order")),
        Piece("sort", "sorted({x})", ("the sorted list of {inner}", "{inner} in sorted order")),
        Piece("distinct", "len(set({x}))", ("the number of distinct ones of {inner}",), weight=0.7),
    ),
)

PAIRS = ConditionalFamily(
    name="pairs",
    parameters="a, b",
    conditions=(
        Piece("a > b", "a > b", ("a is greater than b", "a exceeds b"), weight=3.0),
        Piece("a < b", "a < b", ("a is less than b", "a is below b"), weight=3.0),
        Piece("a >= b", "a >= b", ("a is at least b", "a is not below b"), weight=2.0),
        Piece("a <= b", "a <= b", ("a is at most b", "a is not above b"), weight=2.0),
        Piece("a == b", "a == b", ("a equals b", "a and b are equal"), weight=2.0),
        Piece("a even", "a % 2 == 0", ("a is even",), weight=2.0),
        Piece("b odd", "b % 2 == 1", ("b is odd",), weight=2.0),
        Piece("a > k", "a > {k}", ("a is greater than {k}", "a exceeds {k}"), (3, 5)),
        Piece("b < k", "b < {k}", ("b is less than {k}", "b is below {k}"), (3, 5)),
        Piece("both positive", "a > 0 and b > 0", ("both a and b are positive", "a and b are positive"), weight=2.0),
        Piece("one negative", "a < 0 or b < 0", ("a or b is negative", "either a or b is negative"), weight=2.0),
        Piece("sum even", "(a + b) % 2 == 0", ("a plus b is even", "the sum of a and b is even")),
    ),
    results=(
        Piece("a + b", "a + b", ("a plus b", "the sum of a and b"), weight=2.0),
        Piece("a - b", "a - b", ("a minus b",), weight=2.0),
        Piece("b - a", "b - a", ("b minus a",), weight=2.0),
        Piece("a * b", "a * b", ("a times b", "the product of a and b"), weight=2.0),
        Piece("a", "a", ("a",), weight=1.5),
        Piece("b", "b", ("b",), weight=1.5),
        Piece("max", "max(a, b)", ("the larger of a and b",)),
        Piece("min", "min(a, b)", ("the smaller of a and b",)),
        Piece("distance", "abs(a - b)", ("the distance of a and b", "the absolute difference of a and b"), weight=1.5),
        Piece("a + k", "a + {k}", ("a plus {k}",), (1, 2)),
        Piece("b * k", "b * {k}", ("b times {k}", "{k} times b"), (2, 3)),
        Piece("0", "0", ("0", "zero")),
    ),
)

FAMILIES: tuple[Family, ...] = (INTS, CHARS, WORDS, PAIRS)
WEIGHTS = (45, 17, 20, 18)
