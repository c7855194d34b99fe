"""A program of torch is read without trusting it: whatever could run code is refused."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from headstart.contracts import ClassNames
from headstart.deployment.graph import WholeClassifier, to_program
from headstart.errors import BundleError
from headstart.inference.onnx_graph import INPUT
from headstart.inference.program_session import GRAPH, ProgramSession, with_description
from made_run import random_bundle

OUTPUTS = ["probabilities", "logits", "evidence"]


@pytest.fixture(scope="module")
def content():
    return to_program(WholeClassifier(random_bundle(ClassNames(("cat", "dog", "bird")), flip=False)))


def opened(content):
    return ProgramSession(content, Path("model.pt2"), outputs=OUTPUTS, threads=1)


def changed(content, edit):
    """Return the archive with its records changed: ``edit`` gets them by name, without the folder around them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        root = archive.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    edit(records)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, record in records.items():
            archive.writestr(f"{root}/{name}", record)
    return made.getvalue()


def edited(content, change):
    """Return the archive with its graph changed, as parsed JSON."""

    def edit(records):
        graph = json.loads(records[GRAPH])
        change(graph)
        records[GRAPH] = json.dumps(graph).encode()

    return changed(content, edit)


def first_node(graph):
    return graph["graph_module"]["graph"]["nodes"][0]


def test_it_answers_for_the_outputs_that_are_asked_for(content):
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    probabilities, logits, evidence = opened(content).run(OUTPUTS, {INPUT: images})
    assert probabilities.shape == logits.shape == (2, 3)
    assert evidence.ndim == 3
    np.testing.assert_array_equal(opened(content).run(["logits"], {INPUT: images})[0], logits)


def test_the_same_classifier_makes_the_same_file_without_a_trace_of_this_machine(content):
    assert str(Path.home()).encode() + b"/" not in content
    assert b"site-packages" not in content
    assert b"stack_trace" not in content
    assert to_program(WholeClassifier(random_bundle(ClassNames(("cat", "dog", "bird")), flip=False))) == content


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.mine.run.default",
        "torch.ops.higher_order.wrap",
        "_operator.attrgetter",
        "math.sqrt.__class__",
        "#mine:run",
    ],
)
def test_functions_beyond_the_operators_are_refused(content, target):
    with pytest.raises(BundleError, match="as target"):
        opened(edited(content, lambda graph: first_node(graph).update(target=target)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("as_string", "/etc/passwd"),
        ("as_operator", "torch.os.system"),
        ("as_custom_obj", {"name": "x", "class_fqn": "x"}),
        ("as_graph", {"name": "x"}),
        ("as_expr", {"expr_str": "__import__('os').system('id')", "hint": None}),
        ("as_expr", {"expr_str": "exec", "hint": None}),
        ("as_tensor", {"name": "a): import os; (b"}),
    ],
)
def test_values_that_become_code_are_refused(content, key, value):
    def change(graph):
        first_node(graph)["inputs"].append({"name": "", "arg": {key: value}, "kind": 1})

    with pytest.raises(BundleError, match="no export of headstart does"):
        opened(edited(content, change))


def test_shapes_of_arguments_that_name_classes_are_refused(content):
    def change(graph):
        call = graph["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace("builtins.tuple", "collections.namedtuple")

    with pytest.raises(BundleError, match="as in_spec"):
        opened(edited(content, change))


def test_pickles_libraries_and_archives_in_another_form_are_refused(content):
    def pickled(records):
        name = "data/weights/model_weights_config.json"
        config = json.loads(records[name])
        next(iter(config["config"].values()))["use_pickle"] = 1
        records[name] = json.dumps(config).encode()

    with pytest.raises(BundleError, match="pickled"):
        opened(changed(content, pickled))
    for name in (
        "data/aotinductor/m/x.so",
        "data/weights/model.pt",
        "data/constants/custom_obj_0",
        "models/b.json",
    ):
        with pytest.raises(BundleError, match="which no export"):
            opened(changed(content, lambda records, name=name: records.update({name: b"x"})))
    for other in (b"", content[:-100], content[: len(content) // 2], b"PK" + bytes(99), pickle.dumps(1)):
        with pytest.raises(BundleError, match=r"model\.pt2 can't be run"):
            opened(other)


def test_samples_that_would_be_unpickled_are_never_read(content):
    bomb = b"cos\nsystem\n(S'exit 1'\ntR."
    opened(changed(content, lambda records: records.update({"data/sample_inputs/model.pt": bomb})))


def test_a_program_says_what_it_is_given_to_say(content):
    told = {"headstart.label_names": '["cat", "dÖg"]'}
    assert opened(with_description(content, told)).description == told
    assert opened(content).description == {}
