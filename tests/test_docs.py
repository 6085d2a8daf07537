"""Everything public is documented, in full and as it is."""

import inspect
import re

import pytest

import sklm
import sklm.architectures
import sklm.losses
import sklm.optim
from sklm import LMClassifier, LMRegressor

MODULES = (sklm, sklm.architectures, sklm.losses, sklm.optim)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if callable(getattr(module, name))
}
ESTIMATORS = [LMRegressor, LMClassifier]


def sections(text):
    """From a numpydoc docstring to {section: text}, the part before the first section under ''."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(text):
    """From the text of a Parameters section to {name: (type, description)}."""
    result = {}
    for block in re.split(r"\n(?=\S)", text.strip("\n")):
        head, _, body = block.partition("\n")
        names, _, kind = head.partition(" : ")
        for name in names.split(","):
            result[name.strip().lstrip("*")] = (kind.strip(), inspect.cleandoc(body))
    return result


def arguments(function):
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in ("self", "cls") and p.kind not in (p.VAR_KEYWORD,)
    }


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_is_documented_in_order_with_its_default(estimator):
    documented = entries(sections(estimator.__doc__)["Parameters"])
    given = arguments(estimator.__init__)
    assert list(documented) == list(given)
    for name, parameter in given.items():
        kind, text = documented[name]
        match = re.search(r"default=(.+)$", kind)
        assert match, f"{name} has no default in its type line"
        assert eval(match[1]) == parameter.default, name
        assert text.endswith("."), f"{name} has no sentence"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_has_a_constraint_and_the_named_values_are_allowed(estimator):
    assert set(estimator._parameter_constraints) == set(arguments(estimator.__init__))
    documented = entries(sections(estimator.__doc__)["Parameters"])
    for name, (kind, _) in documented.items():
        options = [c for c in estimator._parameter_constraints[name] if hasattr(c, "options")]
        allowed = {o for c in options for o in c.options if isinstance(o, str)}
        named = set(re.findall(r"'(\w+)'", kind.partition("default=")[0]))
        if named and allowed:
            assert named == allowed, name


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_fitted_attribute_is_documented(estimator):
    pd = pytest.importorskip("pandas")
    X, y = pd.DataFrame({"a": range(20)}), [k**2 if estimator is LMRegressor else k % 2 for k in range(20)]
    model = estimator(early_stopping=True, max_iter=3, random_state=0).fit(X, y)
    public = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    public |= {name for name, value in vars(estimator).items() if isinstance(value, property)}
    documented = set(entries(sections(estimator.__doc__)["Attributes"]))
    # an instance hides properties that raise
    assert documented <= {name for name in (*dir(model), *dir(estimator)) if name.endswith("_")}, (
        "documented but not there"
    )
    assert public - documented == set(), "there but not documented"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_status_values_are_documented(estimator):
    text = entries(sections(estimator.__doc__)["Attributes"])["status_"][1]
    from sklm.optim import Status

    never = {"running", "nonfinite", "superseded"}  # not the status of a start that won
    never |= {"negligible"} if estimator.__name__ == "LMClassifier" else set()
    missing = {status.name.lower() for status in Status} - never - set(re.findall(r"'(\w+)'", text))
    assert missing == set()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_public_methods_are_documented(estimator):
    for name, method in vars(estimator).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        parts = sections(method.__doc__)
        assert parts[""].splitlines()[0].endswith("."), name
        if arguments(method):
            assert list(entries(parts["Parameters"])) == list(arguments(method)), name


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_are_documented(name):
    thing = PUBLIC[name]
    assert thing.__doc__, "no docstring"
    assert "{parameters}" not in thing.__doc__, "placeholder left"
    parts = sections(thing.__doc__)
    summary = parts[""].splitlines()[0]
    assert re.match(r"[A-Z`].*[.:]$", summary), summary
    assert not thing.__doc__.startswith(f"{getattr(thing, '__name__', '')}("), "the docstring of a bare dataclass"
    section = parts.get("Parameters") or parts.get("Attributes")
    if section and not name.endswith("Status"):
        documented = set(entries(section))
        unknown = documented - set(arguments(thing)) - set(dir(thing)) - set(getattr(thing, "__annotations__", {}))
        assert unknown == set(), "documented but not there"
        if "Parameters" in parts and inspect.isclass(thing):
            assert set(arguments(thing)) <= documented, "not documented"


def test_the_docstring_has_what_a_reader_looks_for():
    parts = sections(LMRegressor.__doc__)
    assert {"Parameters", "Attributes", "See Also", "Notes", "Examples"} <= set(parts)
    assert ">>> from sklm import LMRegressor" in parts["Examples"]


def test_the_version_is_there():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", sklm.__version__)
