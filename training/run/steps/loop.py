"""The training loop: truncated back-propagation through time with carried state.

How many steps there are and how large they are is the plan's matter (`training.run.steps.plan`);
all else follows from the step number, so that a resumed run takes the very steps an uninterrupted
one would have, as far as its plan does not depend on time. Knows nothing of files, tasks' data or
export.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from training.errors import RunError
from training.families.task import Task
from training.networks.recurrent import RecurrentNetwork, State
from training.run.steps.optimisers import optimisers_of
from training.run.steps.plan import BudgetPlan, Plan, StepsPlan, plan_of

_T = TypeVar("_T")
Clock: TypeAlias = Callable[[], float]
"""Seconds since whenever."""

LOG_EVERY = 10


@dataclass(slots=True)
class Averages:
    """Running loss and largest gradient norm since the last record."""

    loss: Tensor
    norm: Tensor
    count: int = 0


@dataclass(slots=True)
class Best:
    """The weights that validated best."""

    loss: float = math.inf
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Loop:
    """One fit in progress. Everything that `checkpoint` holds makes it continue bit for bit."""

    def __init__(self, task: Task, fabric: Fabric, *, clock: Clock = time.perf_counter) -> None:
        self.task = task
        self.config = task.config
        self._clock = clock
        self.fabric = fabric
        optimisers = optimisers_of(task.network, self.config)
        self.model, *optimisers = fabric.setup(task.network, *optimisers)
        self.optimisers = optimisers
        for method in task.forward_methods:
            self.model.mark_forward_method(method)
        task.to(fabric.device)
        if fabric.world_size > 1:  # the weights are the same everywhere, dropout is not
            torch.manual_seed(self.config.seed + fabric.global_rank)
        self.step = 0
        self.spent_s = 0.0
        self.plan: Plan = self._planned(
            budget_s=self.config.budget_s, steps=self.config.steps, epochs=self.config.epochs
        )
        self.further: list[str] = []
        """How it was trained further than it was meant to, as options."""
        self.history: list[dict[str, float]] = []
        self.best = Best()
        self.state: State = tuple(part.detach() for part in task.training_state(self._rows))
        network = task.network
        self._learns_initial = isinstance(network, RecurrentNetwork) and network.learns_initial
        self._averages = self._fresh_averages()

    def run(self, *, until: Callable[["Loop"], bool] | None = None) -> Iterator[None]:
        """Train; yields after every step. Stops at the last step or when ``until`` says so."""
        started_s = self._clock() - self.spent_s
        if self.step == 0 and not self.best.weights:
            self._validate()
            self._tell(started_s)
        while not self.finished:
            if until is not None and self.agreed(partial(until, self)):
                break
            self._advance()
            self._tell(started_s)
            if self.plan.validates(self.step):
                self._validate_in_time()
                self._tell(started_s)
            if self.step % LOG_EVERY == 0 or self.finished:
                self._record()
            yield

    def go_further(
        self,
        words: str,
        *,
        budget_s: float | None = None,
        steps: int | None = None,
        epochs: float | None = None,
    ) -> None:
        """Plan anew from here on: for so much more time, or so many more steps or passes.

        ``words`` are the options that say so, for the model's provenance.
        """
        self.further = [*self.further, words]
        self.plan = self._planned(budget_s=budget_s, steps=steps, epochs=epochs)

    @property
    def total(self) -> int | None:
        """The steps of the whole run, as far as they are known; of a budget, as it looks now."""
        return self.plan.total(self.step)

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.plan.is_over(self.step)

    @property
    def loss(self) -> float:
        """The training loss of late."""
        if self._averages.count:
            return float(self._averages.loss) / self._averages.count
        return self.history[-1].get("loss", math.nan) if self.history else math.nan

    def agreed(self, wish: Callable[[], bool]) -> bool:
        """Whether to do what the first process wishes; among several it is asked now and then."""
        if self.fabric.world_size == 1:
            return wish()
        return self.step % LOG_EVERY == 0 and self._everywhere(wish())

    def keep_best(self) -> None:
        """Put the best weights into the network."""
        if self.best.weights:
            self.task.network.load_state_dict(self.best.weights)

    def checkpoint(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; every process asks for it together."""
        random = {"cpu": self._gathered(torch.get_rng_state())}
        if self.fabric.device.type == "cuda":
            random["cuda"] = self._gathered(torch.cuda.get_rng_state(self.fabric.device))
        return {
            "step": self.step,
            "plan": self.plan.state(),
            "further": self.further,
            "meaning": self.task.meaning(),
            "spent_s": self.spent_s,
            "sha256": self.task.sha256,
            "kind": self._kind,
            "network": self.task.network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "state": [self._gathered(part).flatten(0, 1) for part in self.state],
            "random": random,
            "history": self.history,
            "best": {"loss": self.best.loss, "step": self.best.step, "weights": self.best.weights},
            "averages": {
                "loss": self._averages.loss,
                "norm": self._averages.norm,
                "count": self._averages.count,
            },
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue from what `checkpoint` returned.

        Raises:
            RunError: processes, optimisers or precision are not those that wrote it.
        """
        device, rank = self.fabric.device, self.fabric.global_rank
        if checkpoint["kind"] != self._kind:
            raise RunError(
                f"the run was trained with {checkpoint['kind']}, this machine takes {self._kind} "
                "for the same settings: resume it on one of the same kind"
            )
        wrote = len(checkpoint["random"]["cpu"])
        if wrote != self.fabric.world_size:
            raise RunError(
                f"the run was trained by {wrote} processes, these are {self.fabric.world_size}: "
                "resume it with as many"
            )
        self.step, self.spent_s = checkpoint["step"], checkpoint["spent_s"]
        self.plan, self.further = plan_of(checkpoint["plan"]), checkpoint["further"]
        self.task.network.load_state_dict(checkpoint["network"])
        for optimiser, state in zip(self.optimisers, checkpoint["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.state = tuple(
            part.tensor_split(wrote)[rank].to(device) for part in checkpoint["state"]
        )
        self.history = checkpoint["history"]
        self.best = Best(**checkpoint["best"])
        averages = checkpoint["averages"]
        self._averages = Averages(
            loss=averages["loss"].to(device),
            norm=averages["norm"].to(device),
            count=averages["count"],
        )
        torch.set_rng_state(checkpoint["random"]["cpu"][rank])
        if device.type == "cuda" and "cuda" in checkpoint["random"]:
            torch.cuda.set_rng_state(checkpoint["random"]["cuda"][rank], device)

    def _advance(self) -> None:
        window = self.task.streams.at(self.step)
        index, fresh = self._share(window.index), self._share(window.fresh)
        # One that is learned gets a gradient in every step, of zeros if no row is fresh: processes
        # that train together wait for each other's.
        if self._learns_initial or bool(fresh.any()):
            initial = self.task.training_state(len(fresh))
            self.state = initial if bool(fresh.all()) else _begun_anew(self.state, initial, fresh)
        share = self.plan.share(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share
        self.model.train()
        loss, state = self.task.loss(self.model, index, self.state)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.task.network.parameters(), self.config.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.state = tuple(part.detach() for part in state)
        self.step += 1
        self._averages.loss += loss.detach()
        self._averages.norm = torch.maximum(self._averages.norm, norm.detach())
        self._averages.count += 1

    def _validate(self) -> None:
        began_s = self._clock()
        self.model.eval()
        loss = self._everywhere(self.task.validation_loss(self.model))
        if loss < self.best.loss:
            self._keep(loss)
        self.history.append({"step": self.step, "validation": loss})
        self.plan.validated(self._everywhere(self._clock() - began_s))

    def _validate_in_time(self) -> None:
        if self.plan.affords_validation():
            self._validate()
        elif self.best.step == 0:  # better weights that nobody has looked at than untrained ones
            self._keep(math.inf)

    def _keep(self, loss: float) -> None:
        weights = {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.task.network.state_dict().items()
        }
        self.best = Best(loss=loss, step=self.step, weights=weights)

    def _tell(self, started_s: float) -> None:
        """Tell the plan the time; of several processes, the first one's counts."""
        self.spent_s = self._clock() - started_s
        if self.fabric.world_size == 1:
            self.plan.tell(self.step, self.spent_s)
        elif self.plan.limit_s is not None and (
            self.step < LOG_EVERY or self.step % LOG_EVERY == 0
        ):
            self.plan.tell(self.step, self._everywhere(self.spent_s))

    def _record(self) -> None:
        averages = self._averages
        self.history.append(
            {
                "step": self.step,
                "loss": float(self._mean(averages.loss)) / averages.count,
                "gradient_norm": float(averages.norm),
                "learning_rate": float(self.optimisers[0].param_groups[0]["lr"]),
                "seconds": round(self.spent_s, 3),
            }
        )
        self._averages = self._fresh_averages()

    def _fresh_averages(self) -> Averages:
        zero = torch.zeros((), device=self.fabric.device)
        return Averages(loss=zero.clone(), norm=zero.clone())

    # -- several processes: each trains on its share of the batch's rows -----------------------

    @property
    def _rows(self) -> int:
        """Rows of the batch that this process trains on."""
        return self.config.batch // self.fabric.world_size

    @property
    def _kind(self) -> str:
        """What ``auto`` came to here."""
        names = [type(each.optimizer).__name__.lower() for each in self.optimisers]
        return f"{' and '.join(names)} in {self.fabric._precision.precision}"

    def _share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch's rows."""
        return rows.tensor_split(self.fabric.world_size)[self.fabric.global_rank]

    def _everywhere(self, value: _T) -> _T:
        """What the first process has, in all."""
        return value if self.fabric.world_size == 1 else self.fabric.broadcast(value)

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.fabric.world_size == 1:
            return value
        mean = self.fabric.all_reduce(value.clone(), reduce_op="mean")
        assert isinstance(mean, Tensor), "a tensor comes back as one"
        return mean

    def _gathered(self, value: Tensor) -> Tensor:
        """What each process has, one after the other, (processes, ...), on the CPU."""
        if self.fabric.world_size == 1:
            return value[None].cpu()
        # Through the device: what gathers on GPUs knows no other tensors.
        gathered = self.fabric.all_gather(value.to(self.fabric.device))
        assert isinstance(gathered, Tensor), "a tensor comes back as one"
        return gathered.cpu()

    def _planned(self, *, budget_s: float | None, steps: int | None, epochs: float | None) -> Plan:
        """A plan from this step on."""
        task, warmup = self.task, self.config.warmup
        if epochs is not None:
            steps = task.streams.steps(epochs)
        if steps is not None:
            return StepsPlan(
                first=self.step,
                last=self.step + steps,
                warmup=warmup,
                validations=task.validations,
            )
        most = task.most_epochs
        return BudgetPlan(
            first=self.step,
            began_s=self.spent_s,
            budget_s=task.default_budget_s if budget_s is None else budget_s,
            most_steps=task.streams.steps(most) if math.isfinite(most) else math.inf,
            warmup=warmup,
            validations=task.validations,
        )


def _begun_anew(state: State, initial: State, fresh: Tensor) -> State:
    """The state with the initial one in the fresh rows, (batch,)."""
    rows = fresh.to(state[0].device)
    return tuple(
        torch.where(rows.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        for new, old in zip(initial, state, strict=True)
    )
