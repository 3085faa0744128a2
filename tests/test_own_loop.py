"""What is easily done wrong in a training loop of one's own is an error, and what is right is not."""

import copy

import pytest
import torch
from torch import nn

import qstrategies as qs

ROWS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


class Listening(qs.Strategy):
    """Its loss is nothing; it keeps what it is told."""

    summary = "listens"

    def loss(self, model, step):
        self.heard = step
        return model.a.weight.sum() * 0


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


def adam(parameters, **settings):
    return torch.optim.Adam(parameters, lr=1e-3, **settings)


def step(trainee, optimizer, rows=ROWS, model=None):
    outputs = (model or trainee.model)(rows)
    (outputs.square().mean() + trainee.penalty(outputs)).backward()
    optimizer.step()
    trainee.after_step()
    optimizer.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("strategy", ["qat", "clamp", "weight_norm", "distill"])
def test_an_optimizer_over_the_wrong_parameters_is_found(net, strategy, fused):
    trainee = qs.prepare(net, ROWS, strategy)
    optimizer = adam(net.parameters(), fused=fused)
    with pytest.raises(qs.InputError, match=r"none of the \d+ parameters .*parameter_groups"):
        for _ in range(2):
            step(trainee, optimizer)


def test_the_optimizer_of_another_trainee_is_found(net):
    """As where a notebook's cell is run again, and that of the optimizer is not."""
    optimizer = adam(qs.prepare(net, ROWS, "qat").parameter_groups(1e-3))
    trainee = qs.prepare(net, ROWS, "qat")
    with pytest.raises(qs.InputError, match=r"none of the \d+ parameters"):
        for _ in range(2):
            step(trainee, optimizer)


def test_it_is_found_in_a_trainee_that_goes_on(net):
    first = qs.prepare(net, ROWS, "qat")
    first.model(ROWS)
    trainee = qs.resume(net, ROWS, "qat", first.model.state_dict())
    with pytest.raises(qs.InputError, match=r"none of the \d+ parameters"):
        for _ in range(2):
            step(trainee, adam(first.parameter_groups(1e-3)))


def test_finish_says_that_nothing_was_trained(net):
    trainee = qs.prepare(net, ROWS, "qat")
    optimizer = adam(net.parameters())
    step(trainee, optimizer)
    with pytest.raises(qs.InputError, match=r"none of the \d+ parameters"):
        trainee.finish()


def right_from_the_named_parameters(trainee):
    return adam([{"params": [each]} for _, each in trainee.model.named_parameters()])


def warming_up(trainee):
    """The learning rate is 0 at first; fused steps leave no trace then."""
    optimizer = adam(trainee.model.parameters(), fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: number / 10)


class Writing(torch.optim.Optimizer):
    """Writes to ``.data``, as many optimizers beside torch's do."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self):
        for group in self.param_groups:
            for each in group["params"]:
                each.data.add_(each.grad, alpha=-0.01)


RIGHT = {
    "groups": lambda t: adam(t.parameter_groups(1e-3)),
    "fused": lambda t: adam(t.parameter_groups(1e-3), fused=True),
    "own groups": right_from_the_named_parameters,
    "writes to data": lambda t: Writing(t.model.parameters()),
    "the head alone": lambda t: adam(t.model.get_submodule("b").parameters()),
    "momentum": lambda t: torch.optim.SGD(t.parameter_groups(0.1), momentum=0.9),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("strategy", ["qat", "clamp", "distill", "ema"])
def test_right_loops_are_let_through(net, strategy, make):
    trainee = qs.prepare(net, ROWS, strategy)
    optimizer = make(trainee)
    for _ in range(3):
        step(trainee, optimizer)
    assert trainee.steps == 3
    trainee.finish([ROWS])


def test_a_rate_that_starts_at_zero_is_no_wrong_optimizer(net):
    trainee = qs.prepare(net, ROWS, "qat")
    optimizer, schedule = warming_up(trainee)
    for _ in range(3):
        step(trainee, optimizer)
        schedule.step()
    trainee.finish()


def test_steps_that_a_scaler_skips_are_no_wrong_optimizer(net):
    trainee = qs.prepare(net, ROWS, "qat")
    optimizer = adam(trainee.model.parameters())
    for scale in (torch.inf, torch.nan, torch.inf, 1.0):
        (trainee.model(ROWS).square().mean() * scale).backward()
        if scale == 1.0:
            optimizer.step()
        trainee.after_step()
        optimizer.zero_grad()
    trainee.finish()


def test_frozen_models_may_be_finished(net):
    """To find ranges without training."""
    trainee = qs.prepare(net.requires_grad_(False), ROWS, "qat")
    for _ in range(3):
        trainee.model(ROWS)
        trainee.after_step()
    trainee.finish()


@pytest.mark.parametrize("strategy", ["qat", "lsq"])
def test_training_in_evaluation_mode_before_any_range_is_known_is_refused(net, strategy):
    trainee = qs.prepare(net, ROWS, strategy)
    trainee.model.eval()
    with pytest.raises(qs.InputError, match=r"trainee\.model\.train\(\)"):
        step(trainee, adam(trainee.parameter_groups(1e-3)))


def test_ranges_and_statistics_may_be_frozen_later(net):
    trainee = qs.prepare(net, ROWS, "qat")
    optimizer = adam(trainee.parameter_groups(1e-3))
    step(trainee, optimizer)
    trainee.model.eval()
    step(trainee, optimizer)
    trainee.finish()


@pytest.mark.parametrize("strategy", ["qat", "lsq", "distill"])
def test_finish_before_anything_was_seen_is_refused(net, strategy):
    with pytest.raises(qs.InputError, match="nothing has been seen of"):
        qs.prepare(net, ROWS, strategy).finish([ROWS])


def test_ranges_alone_are_enough_to_finish(net):
    trainee = qs.prepare(net, ROWS, "qat")
    with torch.no_grad():
        trainee.model(ROWS)
    trainee.finish()


def test_strategies_in_float_need_calibration(net):
    with pytest.raises(qs.InputError, match="calibration needs at least one batch"):
        qs.prepare(net, ROWS, "clamp").finish()
    qs.prepare(net, ROWS, "cle").finish([ROWS])


def test_a_penalty_follows_a_call(net):
    trainee = qs.prepare(net, ROWS, "distill")
    with pytest.raises(qs.InputError, match=r"penalty follows a call of trainee\.model"):
        trainee.penalty(torch.zeros(16, 3))
    outputs = trainee.model(ROWS)
    trainee.penalty(outputs)
    with pytest.raises(qs.InputError, match=r"penalty follows a call of trainee\.model"):
        trainee.penalty(outputs)
    trainee.penalty(outputs, inputs=(ROWS,))


def test_a_step_without_a_penalty_is_refused_where_there_is_one(net):
    trainee = qs.prepare(net, ROWS, "kure")
    optimizer = adam(trainee.parameter_groups(1e-3))
    step(trainee, optimizer)
    trainee.model(ROWS).sum().backward()
    optimizer.step()
    with pytest.raises(qs.InputError, match=r"Kure .* trainee\.penalty\(outputs\)"):
        trainee.after_step()


def test_steps_without_a_penalty_are_right_where_there_is_none(net):
    trainee = qs.prepare(net, ROWS, "qat")
    optimizer = adam(trainee.parameter_groups(1e-3))
    trainee.model(ROWS).sum().backward()
    optimizer.step()
    trainee.after_step()
    assert trainee.steps == 1


@pytest.mark.parametrize("strategy", ["ema", "distill", "clamp"])
def test_training_without_after_step_is_refused_where_it_does_something(net, strategy):
    trainee = qs.prepare(net, ROWS, strategy)
    optimizer = adam(trainee.parameter_groups(1e-3))
    trainee.model(ROWS).sum().backward()
    optimizer.step()
    with pytest.raises(qs.InputError, match=r"never heard of a step: call trainee.after_step\(\)"):
        trainee.finish(ROWS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fake_quantizers_are_trained_in_float32(net, dtype):
    with pytest.raises(
        qs.InputError, match=r"is torch\..*: fake quantizers are trained in float32"
    ):
        qs.prepare(net.to(dtype), ROWS.to(dtype), "qat")


@pytest.mark.parametrize("cast", ["double", "bfloat16", "half"])
def test_and_stay_in_it(net, cast):
    trainee = qs.prepare(net, ROWS, "qat")
    with pytest.raises(qs.InputError, match=r"float32, not torch\..*: leave .* torch.autocast"):
        getattr(trainee.model, cast)()
    assert trainee.model.to("meta").a.weight.is_meta


@pytest.mark.parametrize("strategy", ["qat", "lsq"])
def test_batches_without_examples_and_of_other_kinds_are_refused_in_training(net, strategy):
    trainee = qs.prepare(net, ROWS, strategy)
    with pytest.raises(qs.InputError, match="a training batch has no examples: leave it out"):
        trainee.model(ROWS[:0])
    with pytest.raises(qs.InputError, match="is torch.int64, that of the example was torch.floa"):
        trainee.model(ROWS.long())
    trainee.model(ROWS)
    assert trainee.model.eval()(ROWS[:0]).shape == (0, 3)


@pytest.fixture
def listening(net):
    return qs.prepare(net, ROWS, Listening())


def inputs_told(trainee, outputs):
    trainee.penalty(outputs)
    (told,) = trainee.strategy.heard.inputs
    return told


def test_outputs_belong_to_their_inputs(listening):
    """Several calls in a step, evaluation between, and what was converted."""
    first, second = ROWS[:4], ROWS[4:]
    a, b = listening.model(first), listening.model(second)
    with torch.no_grad():
        quiet = listening.model(ROWS)
        assert inputs_told(listening, quiet) is ROWS
    assert inputs_told(listening, a) is first
    assert inputs_told(listening, b.double()) is second
    for _ in range(3):  # an evaluation that computes gradients, too
        listening.model(ROWS)
    assert inputs_told(listening, listening.model(first)) is first


def test_what_belongs_to_no_call_for_certain_is_asked_for(listening):
    a, b = listening.model(ROWS[:4]), listening.model(ROWS[4:])
    with pytest.raises(qs.InputError, match="2 calls of trainee.model, .*inputs="):
        listening.penalty(torch.cat([a, b]).double())
    listening.penalty(torch.cat([a, b]), inputs=(ROWS,))
    assert torch.equal(listening.strategy.heard.inputs[0], ROWS)


def test_calls_that_nobody_asks_for_are_forgotten(listening):
    for _ in range(50):
        listening.model(ROWS)
    assert len(listening._calls.open) <= 1


def test_a_strategy_that_calls_the_model_itself_leaves_no_call_behind(net):
    trainee = qs.prepare(net, ROWS, "sam")
    outputs = trainee.model(ROWS)
    trainee.penalty(outputs, criterion=torch.Tensor.sum)
    with pytest.raises(qs.InputError, match="penalty follows a call"):
        trainee.penalty(outputs, criterion=torch.Tensor.sum)


def test_accumulated_gradients_are_one_step(net):
    trainee = qs.prepare(net, ROWS, "distill")
    optimizer = adam(trainee.parameter_groups(1e-3))
    for part in ROWS.split(4):
        outputs = trainee.model(part)
        (outputs.sum() + trainee.penalty(outputs)).backward()
    optimizer.step()
    trainee.after_step()
    assert trainee.steps == 1


def test_the_model_cannot_be_replaced(net):
    trainee = qs.prepare(net, ROWS, "qat")
    with pytest.raises(AttributeError, match="model"):
        trainee.model = nn.Sequential(trainee.model)


STRATEGIES = [
    "qat",
    "lsq",
    "clamp",
    "weight_norm",
    "ema",
    "kure",
    "distill",
    "oscillation_freezing",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_state_of_the_model_alone_resumes(net, strategy):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    results = []
    for cut in (False, True):
        trainee = qs.prepare(net, ROWS, strategy, steps=6)
        for number in range(6):
            if cut and number == 3:
                state = {name: each.clone() for name, each in trainee.model.state_dict().items()}
                trainee = qs.resume(net, ROWS, strategy, state, steps=6)
                assert trainee.steps == 3
            step(trainee, torch.optim.SGD(trainee.parameter_groups(0.01)))
        results.append(trainee.finish([ROWS]).int8()(ROWS))
    assert torch.equal(*results)


def test_the_state_of_a_plain_model_can_be_loaded(net):
    trainee = qs.prepare(Net(), ROWS, "clamp")
    trainee.model.load_state_dict(net.state_dict())
    assert torch.equal(trainee.model.a.weight, net.a.weight) and trainee.steps == 0


def test_what_was_finished_or_folded_has_no_step_count(net):
    trainee = qs.prepare(net, ROWS, "clamp")
    assert set(trainee.model.state_dict()) - set(net.state_dict()) == {"qstrategies_steps"}
    folded = copy.deepcopy(trainee).fold()
    assert set(folded.state_dict()) == set(net.state_dict())
    folded.load_state_dict(net.state_dict())


@pytest.mark.parametrize("strategy", ["qat", "clamp"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_prepared_model_is_in_training_mode_and_what_is_frozen_stays(strategy, mode):
    """A fresh model of torch's is too: who calls no train() has frozen nothing."""
    net = Net().train(mode)
    frozen = mode
    if frozen:
        net.norm.eval()
    trained = qs.prepare(net, ROWS, strategy).model
    modes = {name: each.training for name, each in trained.named_modules() if name != "norm"}
    assert all(modes.values()), modes
    assert trained.norm.training is not frozen


@pytest.mark.parametrize("strategy", ["qat", "clamp"])
def test_the_memory_format_is_that_of_the_model(strategy):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    for wanted in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=wanted)
        trained = qs.prepare(net, torch.randn(4, 3, 8, 8), strategy).model
        weights = [each for each in trained.parameters() if each.dim() == 4]
        assert weights and all(each.is_contiguous(memory_format=wanted) for each in weights)


@pytest.mark.parametrize("strategy", ["qat", "clamp", "weight_norm"])
def test_what_a_framework_puts_around_forward_is_not_quantized(net, strategy):
    """As accelerate does for mixed precision."""
    results = []
    for wraps in (False, True):
        trainee = qs.prepare(net, ROWS, strategy)
        if wraps:
            inner = trainee.model.forward
            trainee.model.forward = lambda x, inner=inner: inner(x) + 0.1
        step(trainee, torch.optim.SGD(trainee.parameter_groups(0.0)))
        results.append(trainee.finish([ROWS]).int8()(ROWS))
    assert torch.equal(*results)


@pytest.mark.parametrize("strategy", ["oscillation_damping", "oscillation_freezing", "parq"])
def test_strategies_that_change_on_the_way_ask_how_long_it_is(net, strategy):
    def step(trainee):
        (trainee.model(ROWS).sum() + trainee.penalty(None)).backward()
        trainee.after_step()

    with pytest.raises(qs.InputError, match=r"changes as training goes on.*steps=N"):
        step(qs.prepare(net, ROWS, strategy))
    step(qs.prepare(net, ROWS, strategy, steps=1))


class Words(nn.Module):
    """An embedding, as a module or by the function, and a layer."""

    def __init__(self, *, by_function):
        super().__init__()
        self.table, self.layer, self.by_function = nn.Embedding(9, 4), nn.Linear(4, 2), by_function

    def forward(self, ids):
        function = nn.functional.embedding
        rows = function(ids, self.table.weight) if self.by_function else self.table(ids)
        return self.layer(rows)


@pytest.mark.parametrize("by_function", [False, True])
def test_ids_beyond_the_embedding_are_named(by_function):
    ids = torch.arange(8).reshape(2, 4)
    trainee = qs.prepare(Words(by_function=by_function), ids, "qat")
    trainee.model(ids)
    for wrong in (9, -1):
        with pytest.raises(qs.InputError, match=f"holds the id {wrong}: expected 0 to 8, the rows"):
            trainee.model(ids.clamp(max=7).masked_fill(ids == 3, wrong))
