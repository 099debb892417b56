"""Numbers as array fields: how they convert, where they must lie, how they look."""

import dataclasses
import inspect
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, dataclass_transform, get_args, TYPE_CHECKING, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ._types import Scalar


T = TypeVar("T")
NumberLike: TypeAlias = float | int | np.number[Any] | np.ndarray | Array
NumbersLike: TypeAlias = Sequence[NumberLike] | np.ndarray | Array


def as_number(x: NumberLike) -> Scalar:
    """`x` as a scalar array of the default float dtype.

    Always a copy: the caller may donate the optimizer's buffers. A concrete `x` stays
    concrete under `jax.jit`, so that its range is checked there too.
    """
    if _is_boolean(x) or not eqx.is_array_like(x):
        raise TypeError(f"expected a real number or a scalar array, got {x!r}")
    if jnp.iscomplexobj(x):
        raise TypeError(f"expected a real number, got the complex {x}")
    if np.shape(x) != ():
        raise ValueError(
            f"expected a scalar, got an array of shape {np.shape(x)}. To train one "
            "model per value, build the optimizer inside `jax.vmap`."
        )
    return _own(x, float)


def as_numbers(x: NumbersLike) -> Float[Array, " n"]:
    """`x` as a 1-d array of the default float dtype, always a copy."""
    if isinstance(x, Sequence) and not isinstance(x, str):
        numbers = [as_number(number) for number in x]
        if any(isinstance(number, Tracer) for number in numbers):
            return jnp.stack(numbers)
        return _own(np.asarray(numbers, dtype=float), float)
    if not eqx.is_array_like(x) or _is_boolean(x) or jnp.iscomplexobj(x):
        raise TypeError(f"expected real numbers or a 1-d array of them, got {x!r}")
    if np.ndim(x) != 1:
        raise ValueError(
            f"expected a 1-d array of numbers, got one of shape {np.shape(x)}"
        )
    return _own(x, float)


def as_real_array(x: Any) -> Float[Array, "..."]:
    """`x` as an array of the default float dtype and any shape, always a copy."""
    if _is_boolean(x) or not eqx.is_array_like(x):
        raise TypeError(f"expected a real number or an array of them, got {x!r}")
    if jnp.iscomplexobj(x):
        raise TypeError(f"expected real numbers, got {x}")
    return _own(x, float)


def _is_boolean(x: Any) -> bool:
    return isinstance(x, bool) or getattr(x, "dtype", None) == bool


def copied(tree: T) -> T:
    """`tree` with copies of its arrays, concrete ones also under `jax.jit`."""
    return jtu.tree_map(lambda x: _own(x) if eqx.is_array(x) else x, tree)


def _own(x: Any, dtype: Any = None) -> Array:
    if isinstance(x, Tracer):
        return jnp.asarray(x, dtype=dtype)
    with jax.ensure_compile_time_eval():
        return jnp.array(x, dtype=dtype, copy=True)


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval in the usual notation, such as `"[0, 1)"`."""

    text: str

    def __contains__(self, x: np.ndarray) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = x >= low if self.text[0] == "[" else x > low
        below = x <= high if self.text[-1] == "]" else x < high
        return bool(np.all(above & below))


if TYPE_CHECKING:

    class Number:
        """A field that is set to a number and read as an array."""

        def __get__(self, instance: object, owner: Any = None) -> Scalar: ...
        def __set__(self, instance: object, value: NumberLike) -> None: ...

    class OptionalNumber:
        """A `Number` that may also be `None`."""

        def __get__(self, instance: object, owner: Any = None) -> Scalar | None: ...
        def __set__(self, instance: object, value: NumberLike | None) -> None: ...

    class Numbers:
        """A field that is set to numbers and read as a 1-d array."""

        def __get__(
            self, instance: object, owner: Any = None
        ) -> Float[Array, " n"]: ...
        def __set__(self, instance: object, value: NumbersLike) -> None: ...

else:
    Number: TypeAlias = Scalar
    OptionalNumber: TypeAlias = Scalar | None
    Numbers: TypeAlias = Float[Array, " n"]


@dataclasses.dataclass(frozen=True)
class NumberIn:
    """A field converter: a number in an interval, kept as a scalar array."""

    interval: Interval

    def __call__(self, x: Any) -> Any:
        return None if x is None else as_number(x)

    def numbers(self, value: Scalar) -> Iterator[tuple[str, Scalar]]:
        """The numbers in a converted value, each with its place in it."""
        yield "", value


@dataclasses.dataclass(frozen=True)
class NumbersIn:
    """A field converter: numbers in an interval, kept as a 1-d array."""

    interval: Interval

    def __call__(self, x: NumbersLike) -> Float[Array, " n"]:
        return as_numbers(x)

    def numbers(self, value: Float[Array, " n"]) -> Iterator[tuple[str, Scalar]]:
        """The numbers in a converted value, each with its place in it."""
        if not isinstance(value, Tracer):
            yield from ((f"[{i}]", x) for i, x in enumerate(np.asarray(value)))


def number(interval: str, **options: Any) -> Any:
    """A field that holds a number in `interval`, such as `"(0, inf)"`."""
    converter, metadata = NumberIn(Interval(interval)), {"like": "NumberLike"}
    return eqx.field(converter=converter, metadata=metadata, **options)


def numbers(interval: str, **options: Any) -> Any:
    """A field that holds several numbers, each in `interval`."""
    converter, metadata = NumbersIn(Interval(interval)), {"like": "NumbersLike"}
    return eqx.field(converter=converter, metadata=metadata, **options)


def integer(interval: str, **options: Any) -> Any:
    """A static field that holds an integer in `interval`, such as `"[1, inf)"`."""
    return eqx.field(static=True, metadata={"integers": Interval(interval)}, **options)


@dataclass_transform(field_specifiers=(eqx.field, number, numbers, integer))
class NumbersMeta(type(eqx.Module)):
    """The metaclass of modules whose fields are numbers: it tells type checkers which
    functions declare a field, `help` what each field is set to, and errors about an
    argument which one it is."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except (TypeError, ValueError) as error:
                raise _naming_argument(cls, args, kwargs, error) from error.__cause__

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature with the short name of what each argument is set to, in place
        of the type that the field then has."""
        signature = inspect.signature(cls.__init__)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        parameters = list(signature.parameters.values())[1:]
        for i, parameter in enumerate(parameters):
            field = fields.get(parameter.name)
            if field is not None and "like" in field.metadata:
                optional = " | None" if field.default is None else ""
                annotation = _Name(field.metadata["like"] + optional)
                parameters[i] = parameter.replace(annotation=annotation)
        return signature.replace(parameters=parameters, return_annotation=cls)


def _naming_argument(
    cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> Exception:
    """`error`, raised when `cls` was made, with the argument that a converter
    refused."""
    try:
        given = inspect.signature(cls.__init__).bind(None, *args, **kwargs).arguments
    except TypeError:  # too many arguments, or too few: Python says which
        return error
    for field in dataclasses.fields(cls):
        if field.name in given:
            try:
                converted(cls, field, given[field.name])
            except (TypeError, ValueError) as again:
                return again
    return error


def converted(cls: Any, field: dataclasses.Field, value: Any) -> Any:
    """`value` as the field of `cls` holds it. An error names both."""
    converter: Any = field.metadata.get("converter")
    if converter is None:
        return value
    try:
        return converter(value)
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"`{cls.__name__}"):
            raise
        given = f"`{cls.__name__}({field.name}={reprlib.repr(value)})`"
        raise error_about(given, error) from error.__cause__


def error_about(what: str, error: Exception) -> Exception:
    """An error like `error` that says first what it is about."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{what}: {error}")


class _Name:
    """An annotation that prints as its name."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return self._name


def check_fields(module: eqx.Module) -> None:
    """Check what the fields of `module` hold against how they are declared.

    Numbers that are not known yet, inside `jax.jit` or `jax.vmap`, pass.

    **Raises:** a `ValueError` for a number outside its field's interval; a `TypeError`
    for a `None` where the field has none, and for a field that holds a plain number.
    """
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        converter: Any = field.metadata.get("converter")
        if "integers" in field.metadata:
            _check_integer(module, field.name, value, field.metadata["integers"])
        elif hasattr(converter, "interval"):
            _check_numbers(module, field, value)
        elif converter is None and not field.metadata.get("static", False):
            _check_declared(module, field.name, value)
        elif field.type is bool and not isinstance(value, bool | np.bool_):
            raise TypeError(
                f"`{type(module).__name__}({field.name}={reprlib.repr(value)})`: "
                f"`{field.name}` must be True or False"
            )


def _check_integer(module: eqx.Module, name: str, value: Any, within: Interval) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or np.asarray(value) not in within:
        least = within.text[1:-1].split(",")[0]
        raise ValueError(
            f"`{type(module).__name__}({name}={value})`: `{name}` must be an integer "
            f"of at least {least}."
        )


def _check_numbers(module: eqx.Module, field: dataclasses.Field, value: Any) -> None:
    converter: Any = field.metadata["converter"]
    if value is None:
        if type(None) not in get_args(field.type):
            raise TypeError(
                f"`{type(module).__name__}({field.name}=None)`: `{field.name}` must be "
                "given"
            )
        return
    for place, number in converter.numbers(value):
        if isinstance(number, Tracer) or np.asarray(number) in converter.interval:
            continue
        raise ValueError(
            f"`{type(module).__name__}({field.name}={number!s})`: "
            f"`{field.name}`{place and f' at {place}'} must lie in "
            f"{converter.interval.text}."
        )


def _check_declared(module: eqx.Module, name: str, value: Any) -> None:
    if isinstance(value, bool | int | float | complex | np.generic | np.ndarray):
        of = type(module).__name__
        kind = type(value).__name__
        declare = (
            "`eqx.field(static=True)`"
            if isinstance(value, bool | np.bool_)
            else '`Hyperparameter` and `= hyperparameter("(-inf, inf)")`, which both '
            "come from `eqxopt.rules`"
        )
        raise TypeError(
            f"`{of}.{name}` holds a plain {kind}, and every leaf of an optimizer is an "
            f"array. Declare the field with {declare}"
        )


def check_increasing(module: eqx.Module, *names: str) -> None:
    """Raises a `ValueError` unless the numbers in these fields, one after the other,
    increase. Numbers that are not known yet pass."""
    values = [getattr(module, name) for name in names]
    if any(isinstance(value, Tracer) for value in values):
        return
    if np.any(np.diff(np.concatenate([np.atleast_1d(v) for v in values])) <= 0):
        given = ", ".join(f"{name}={value!s}" for name, value in zip(names, values))
        what = " < ".join(f"`{name}`" for name in names)
        raise ValueError(
            f"`{type(module).__name__}({given})`: "
            + (f"{what} must hold." if len(names) > 1 else f"{what} must increase.")
        )


def is_default(field: dataclasses.Field, value: Any) -> bool:
    """Whether `value` is what the field holds by default. Unknown numbers are not."""
    if field.default is dataclasses.MISSING:
        return False
    converter: Any = field.metadata.get("converter")
    default = field.default if converter is None else converter(field.default)
    try:
        return bool(np.all(default == value))
    except Exception:  # a tracer, a donated array, a comparison of its own
        return False


def show_value(value: Any) -> str:
    """Numbers as digits, any other array as its shape, a function as its name."""
    if eqx.is_array(value):
        known = not isinstance(value, Tracer) and not value.is_deleted()
        if known and value.ndim <= 1 and value.size <= 8 and value.dtype.kind in "iuf":
            digits = [f"{x:.4g}" for x in np.atleast_1d(value)]
            return f"[{', '.join(digits)}]" if value.ndim else digits[0]
        return show_shape(value)
    if isinstance(value, tuple | list):
        inside = ", ".join(map(show_value, value))
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    return getattr(value, "__name__", repr(value)) if callable(value) else repr(value)


def show_shape(x: Any) -> str:
    """The dtype and shape of an array, as `f32[64,3]`."""
    dtype = str(x.dtype)
    for long, short in (("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c")):
        if dtype.startswith(long):
            dtype = short + dtype[len(long) :]
            break
    return f"{dtype}[{','.join(map(str, x.shape))}]"
