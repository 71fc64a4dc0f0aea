"""What differs between two headers is named, and nothing of it goes unseen."""

import pytest

from deploy_kit.cpp.header import GENERATOR, header_text
from deploy_kit.cpp.reading import differences
from helpers.cpp_headers import first_number, replaced


@pytest.fixture(scope="module")
def text(shared_bundle, run):
    return header_text(run.network, shared_bundle.contract, shared_bundle.golden)


CHANGES = {
    "weight": (first_number("kActor0Weight", lambda value: value * 2), "the array kActor0Weight differs in 1 of 384"),
    "spelling": (
        lambda text: text.replace("kActionOffset[4]", "kActionOffset[ 4]", 1),
        "in the contract's constants: 'constexpr double kActionOffset[ 4]",
    ),
    "number-that-is-code": (
        lambda text: text.replace("float kActor0Weight[384] = {\n", "float kActor0Weight[384] = {\n  evil(), ", 1),
        "the array kActor0Weight holds something that is no number",
    ),
    "statement": (replaced("  run_heads(b);\n  double sum", "  run_heads(b); evil();\n  double sum"), "in the step"),
    "line-ends": (lambda text: text.replace("\n", "\r\n"), "carriage returns"),
    "one-line-end": (lambda text: text.replace("\n", "\r\n", 1), "carriage returns"),
    "end": (lambda text: text + "int evil;\n", "in the C interface: 'int evil;'"),
    "cut": (lambda text: text[: len(text) // 2], "is missing"),
    "empty": (lambda text: "", "generator None"),
    "name": (lambda text: text.replace(f"Generator {GENERATOR}.", f"Generator {GENERATOR + 1}."), "was written by"),
    "space": (lambda text: text + " ", "in the C interface: ' '"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_named(text, change):
    make, said = CHANGES[change]
    assert said in "; ".join(differences(make(text), text))


def test_the_namespace_is_compared_too(text):
    name = text[text.index("inline namespace ") :].split()[2]
    assert differences(text.replace(name, "policy_0123456789abcdef"), text) == (
        "its namespace is not named after its content",
    )


def test_the_same_text_has_no_differences(text):
    assert differences(text, text) == ()


def test_a_number_written_otherwise_is_named(text):
    start = text.index("float kActor0Weight[384] = {\n") + len("float kActor0Weight[384] = {\n  ")
    literal = text[start : text.index(",", start)]
    mantissa, exponent = literal.split("p")
    longer = text[:start] + f"{mantissa}0p{exponent}" + text[start + len(literal) :]
    assert differences(longer, text)[0].startswith("the array kActor0Weight h")


def test_many_differences_are_counted(text):
    other = text.replace("] = {\n  0x", "] = {\n  -0x").replace("] = {\n  --0x", "] = {\n  0x")
    found = differences(other, text)
    assert len(found) == 6
    assert found[-1].startswith("and ")
