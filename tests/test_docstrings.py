"""What the public names say of themselves: shapes, what they return and raise, and where they come from."""

import inspect
import re

import pytest

import convert
import ipcl_jax

PUBLIC = [
    pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
    for package in (ipcl_jax, convert)
    for name in package.__all__
]
# What computes something that was published says where.
FROM_THE_LITERATURE = (
    "AlexNetGN", "KNNReadout", "LinearReadout", "ResNet", "RidgeReadout", "cka", "compare_rdms", "init_queue",
    "ipcl_loss", "make_views", "update_queue",
)  # fmt: skip
ARRAYS = ("Array", "ArrayLike", "ndarray", "Rows")


def sections(text: str) -> dict[str, str]:
    """A docstring's parts by their titles; the summary has none."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Yields|Source|Differs): *", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section: str) -> dict[str, str]:
    """What a list of arguments says of each."""
    found = re.findall(r"^    (\w+): (.*(?:\n(?:        .*)?)*)", section, flags=re.MULTILINE)
    return dict(found)


def functions_of(thing) -> list:
    """A function, or a class's public methods of its own."""
    if not inspect.isclass(thing):
        return [thing]
    own = [value for name, value in vars(thing).items() if not name.startswith("_")]
    return [value for value in own if inspect.isfunction(value)]


def mentions_array(annotation: object) -> bool:
    words = re.findall(r"\w+", f"{getattr(annotation, '__name__', '')} {annotation}")
    return any(word in ARRAYS for word in words) and "float" not in words


@pytest.mark.parametrize("thing", PUBLIC)
def test_public_names_explain_themselves(thing):
    about = inspect.getdoc(thing)
    assert about and about.splitlines()[0].endswith((".", ":", "?")), "a summary that ends in a full stop"
    for function in functions_of(thing):
        text = inspect.getdoc(function)
        assert text, f"{function.__qualname__} has no docstring"
        said, signature = sections(text), inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        known = entries(said.get("Args", ""))
        brief = len(text.splitlines()) == 1  # a method that one line explains
        for parameter in [] if brief else parameters:
            assert parameter.name in known, f"{function.__qualname__} doesn't explain {parameter.name}"
            if mentions_array(parameter.annotation):
                shape = re.search(r"`\[|scalar|PRNG key", known[parameter.name])
                assert shape, f"{function.__qualname__}: shape of {parameter.name}"
        returns = signature.return_annotation
        if not brief and returns not in (None, "None"):
            assert "Returns" in said or "Yields" in said, (
                f"{function.__qualname__} doesn't say what it returns"
            )
        if "    raise " in inspect.getsource(function):
            assert "Raises" in said, f"{function.__qualname__} doesn't say what it raises"


@pytest.mark.parametrize("name", FROM_THE_LITERATURE)
def test_what_was_published_names_its_source(name):
    thing = getattr(ipcl_jax, name)
    module = inspect.getmodule(thing).__doc__
    assert "Source: " in inspect.getdoc(thing) or "Source: " in module
