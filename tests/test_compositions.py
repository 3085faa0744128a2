"""Strategies side by side: in a defined order, or refused with a reason."""

import pytest
import torch
from conftest import small

import qstrategies as qs
from qstrategies.experiment.dependencies import Inputs
from qstrategies.quantization.recipe import overrides
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Course
from qstrategies.strategies.composed import composed

EXAMPLE = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Early(qs.Strategy):
    summary = "adds 1 to the loss, and notes"
    options = {"size": qs.Option(1.0, 0, 10, "of the loss")}

    def loss(self, model, step):
        return torch.tensor(self.values["size"])

    def after_step(self, model, step):
        model.heard.append("early")


class Late(Early):
    summary = "the same, later"
    options = {}
    course = Course(parent="no_norm", schedule="tuning")

    def loss(self, model, step):
        return None

    def after_step(self, model, step):
        model.heard.append("late")


class After(qs.Strategy):
    summary = "acts after training"
    course = Course(parent="no_norm", schedule=None)

    def rewrite(self, graph):
        self.rewritten = True


class Rounds(After):
    def rewrite(self, graph):
        pass

    def round_weights(self, problem):
        return problem.nearest()


def named(*names):
    return {name: STRATEGIES.get(name) for name in names}


def test_hooks_are_asked_in_the_order_of_the_name():
    kind = composed({"early": Early, "late": Late})
    assert kind.__name__ == "early+late"
    assert kind.course == Course(parent="early", schedule="tuning")
    strategy, model = kind(size=3), torch.nn.Linear(2, 2)
    model.heard = []
    assert strategy.loss(model, None) == 3
    strategy.after_step(model, None)
    assert model.heard == ["early", "late"]
    assert not overrides(strategy, "rewrite") and overrides(composed({"a": After})(), "rewrite")


def test_what_comes_after_training_keeps_the_parent_of_what_comes_before():
    both = composed({"early": Early, "after": After, "rounds": Rounds})
    assert both.course == Course(parent="early", schedule=None)
    assert composed({"after": After, "rounds": Rounds}).course == After.course
    assert composed({"qat": STRATEGIES.get("qat"), "rounds": type("R", (qs.Strategy,), {
        "summary": "", "course": After.course, "refine": lambda self, prepared, batches: None,
    })}).course == STRATEGIES.get("qat").course  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"late": Late, "early": Early}, "put them in the order of their work, 'early\\+late'"),
        ({"late": Late, "qat": STRATEGIES.get("qat")}, "late and qat both continue"),
        ({"a": Rounds, "b": Rounds}, "a and b both decide the integers of weights"),
        ({"a": Early, "b": Early}, "the option 'size'"),
        ({"qat": STRATEGIES.get("qat"), "after": After}, "order of their work, 'after\\+qat'"),
        (named("ptq_best", "qat"), "qat trains the quantizers of ptq_best"),
        (named("qat", "mse_clip"), "qat trains the quantizers of mse_clip"),
        (named("mse_clip", "qat"), "qat trains the quantizers of mse_clip"),
        (named("mse_clip", "efficient_qat"), "mse_clip and efficient_qat both decide the steps"),
        (named("mixed", "cle", "lsq"), "put them in the order of their work, 'cle\\+mixed\\+lsq'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_the_reason(parts, reason):
    with pytest.raises(qs.InputError, match=reason):
        composed(parts)


def test_names_are_looked_up_and_misspelled_ones_refused():
    assert STRATEGIES.get("weight_norm+qat").parts == STRATEGIES.get("qat_weight_norm").parts
    for name, reason in (
        ("weight_norm+qatt", "unknown strategy 'qatt'. Did you mean 'qat'"),
        ("clamp+", r"'clamp\+' has a '\+' beside nothing"),
        ("clamp+clamp", "names a strategy twice"),
    ):
        with pytest.raises(qs.InputError, match=reason):
            STRATEGIES.get(name)


@pytest.mark.parametrize("name", ["weight_norm+qat", "clamp+qat"])
def test_a_composition_gives_the_bits_of_its_old_name(name):
    found = []
    for chosen in (name, "qat_" + name.removesuffix("+qat")):
        torch.manual_seed(0)
        trainee = qs.prepare(qs.MODELS.get("cnn")(), EXAMPLE, chosen)
        optimizer = torch.optim.SGD(trainee.parameter_groups(0.1))
        for _ in range(3):
            optimizer.zero_grad()
            trainee.model.train()(EXAMPLE).square().mean().backward()
            optimizer.step()
            trainee.after_step()
        found.append(trainee.finish().int8()(EXAMPLE))
    assert torch.equal(*found)


def test_a_run_depends_on_the_code_of_every_part(workspace):
    parts = Inputs(workspace.dataset).of_training(small("clamp+qat"), "clamp+qat")
    assert {"code of Clamp in strategy 'clamp+qat'", "code of Qat in strategy 'clamp+qat'"} <= set(
        parts
    )
