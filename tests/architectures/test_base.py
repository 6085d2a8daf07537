import pytest

from sklm.architectures import MLP, Architecture, ModuleArchitecture, Network


def test_abstract_classes_cannot_be_instantiated():
    for abstract in (Network, Architecture):
        with pytest.raises(TypeError, match="abstract"):
            abstract()


def test_defaults_that_suit_each_family():
    """Perceptrons are standardised and damped equally; a module's parameters keep their units."""
    assert (MLP.standardize, MLP.damping_scaling, MLP.solver) == (True, "identity", "auto")
    module = ModuleArchitecture
    assert (module.standardize, module.damping_scaling, module.solver) == (False, "more", "qr")
