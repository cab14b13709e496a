"""Adam, as torch.optim.Adam(fused=True) does it to the bit, without the 2 seconds that importing torch.compile costs.

torch.optim imports torch._dynamo, and with it sympy and torch.distributed, as soon as an optimizer is made.
"""

from __future__ import annotations

import torch

DEFAULTS = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": True,
    "decoupled_weight_decay": False,
}


class Adam:
    """Kingma and Ba 2015, "Adam", algorithm 1, by torch's fused kernel; groups and states as torch.optim keeps them.

    groups: dictionaries of `params` and `lr`.
    """

    def __init__(self, groups: list[dict]):
        self.param_groups = [group | {k: v for k, v in DEFAULTS.items() if k not in group} for group in groups]
        self.state: dict[torch.nn.Parameter, dict] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients; a parameter without one stays as it is."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter not in self.state:
                    zeros = torch.zeros_like(parameter), torch.zeros_like(parameter)
                    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    self.state[parameter] = {"step": step, "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
                state = self.state[parameter]
                state["step"] += 1
                torch._fused_adam_(
                    [parameter], [parameter.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
                    lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0, eps=group["eps"], amsgrad=False,
                    maximize=False,
                )  # fmt: skip

    def _numbers(self) -> dict[torch.nn.Parameter, int]:
        return {parameter: i for i, parameter in enumerate(p for group in self.param_groups for p in group["params"])}

    def state_dict(self) -> dict:
        """States by the parameters' numbers, and groups, as torch.optim writes them."""
        numbers = self._numbers()
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        for packed, group in zip(groups, self.param_groups, strict=True):
            packed["params"] = [numbers[parameter] for parameter in group["params"]]
        return {"state": {numbers[p]: state for p, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, content: dict) -> None:
        """Take over what state_dict returned, of this class or of torch.optim.Adam."""
        parameters = list(self._numbers())
        for group, given in zip(self.param_groups, content["param_groups"], strict=True):
            group |= {k: v for k, v in given.items() if k != "params"}
        self.state = {
            parameters[i]: {name: value.clone().to(parameters[i].device) for name, value in state.items()}
            for i, state in content["state"].items()
        }
