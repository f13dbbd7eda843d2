"""Computes the loss with Triton (`triton_route`): one launch per class of sizes.

Cost, iterations, plan and <C, P> stay on the chip; from a batch's vectors come its numbers and
the plans' potentials, and in the backward pass the plans are made again from those. Needs
Triton. Lengths are never read on the host, so nothing waits for the device.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.transport.diagnostics import BAND_HALF_WIDTH
from distill.transport.gpu import kernels
from distill.transport.gpu.classes import fits, size_classes
from distill.transport.gpu.large import solve_large
from distill.transport.reference import reference_route
from distill.transport.route import PairResults, Request, tokens_first

#: Dimensions taken at a time: with more, vectors crowd the tile out of the registers.
BLOCK_D = 16


def triton_route(request: Request) -> PairResults:
    """`reference_route` in fused kernels, in float32; plans agree to rounding.

    Pairs too long for a tile have their costs in global memory, and only the solve is one
    kernel.
    """
    student_BND, teacher_BMD = request.student_BND, request.teacher_BMD
    if not fits(student_BND.shape[1], teacher_BMD.shape[1]):
        return reference_route(request, solve_large)
    batch = _Batch(request)
    cost_B = _FusedTransport.apply(student_BND, teacher_BMD, batch)

    def column(which: Any) -> Tensor:
        return batch.numbers[:, which.value]

    return PairResults(
        cost_B=cost_B,
        value_B=None if request.settings.value == "sharp" else column(kernels.VALUE),
        marginal_error_B=column(kernels.ERROR),
        perplexity_B=column(kernels.PERPLEXITY),
        diagonal_share_B=column(kernels.DIAGONAL),
        num_iterations_B=column(kernels.ITERATIONS),
        epsilon_B=column(kernels.EPSILON),
        plan_BNM=batch.plan_BNM if request.return_plan else None,
    )


class _Batch:
    """One call's tensors: what the kernels read and what they left."""

    def __init__(self, request: Request) -> None:
        self.request = request
        settings, device = request.settings, request.a_BN.device
        self.a_BN = request.a_BN.float().contiguous()
        self.b_BM = request.b_BM.float().contiguous()
        self.order_BN = tokens_first(self.a_BN).int()
        self.order_BM = tokens_first(self.b_BM).int()
        self.size_B1 = (self.a_BN > 0).sum(dim=1, dtype=torch.int32)
        self.size_B2 = (self.b_BM > 0).sum(dim=1, dtype=torch.int32)
        num_pairs = len(self.a_BN)
        shape = (*self.a_BN.shape, self.b_BM.shape[1])
        self.numbers = torch.zeros(num_pairs, kernels.NUM_NUMBERS.value, device=device)
        self.rows_BN = torch.empty_like(self.a_BN)
        self.columns_BM = torch.empty_like(self.b_BM)
        self.step_B = torch.zeros(num_pairs, device=device)
        self.plan_BNM = torch.zeros(shape if request.return_plan else 1, device=device)
        self.plan_cost = request.plan_cost_BNM
        self.blend = float(settings.plan_blend) if settings.plan_source == "blend" else 1.0
        self.dimension = request.student_BND.shape[-1]
        # What does not change between the forward and the backward kernel.
        self.constants = {
            "BLOCK_D": BLOCK_D,
            "COSINE": settings.cost == "cosine",
            "HAS_PLAN_COST": self.plan_cost is not None,
        }

    def launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        lengths = self.a_BN.shape[1], self.b_BM.shape[1]
        for size_class in size_classes(*lengths):
            kernel[(len(self.a_BN),)](
                *arguments,
                N=lengths[0],
                M=lengths[1],
                dimension=self.dimension,
                blend=self.blend,
                least_n=size_class.least_n,
                least_m=size_class.least_m,
                BLOCK_N=size_class.block_n,
                BLOCK_M=size_class.block_m,
                **self.constants,
                **constants,
                num_warps=size_class.num_warps,
                enable_fp_fusion=True,
            )

    def solve(self, student_BND: Tensor, teacher_BMD: Tensor) -> None:
        request, settings = self.request, self.request.settings
        self.launch(
            kernels.solve_kernel,
            student_BND.contiguous(),
            teacher_BMD.contiguous(),
            self.numbers if self.plan_cost is None else self.plan_cost.float().contiguous(),
            self.a_BN,
            self.b_BM,
            self.order_BN,
            self.order_BM,
            self.size_B1,
            self.size_B2,
            request.epsilon_B.float().contiguous(),
            self.numbers,
            self.rows_BN,
            self.columns_BM,
            self.step_B,
            self.plan_BNM,
            relaxation=float(settings.marginal_relaxation),
            num_iterations=settings.num_iterations,
            check_every=settings.check_every,
            tolerance=float(settings.tolerance),
            half_width=BAND_HALF_WIDTH + 1e-6,
            wants_plan=int(request.return_plan),
            RELATIVE=request.epsilon_relative,
            PROXIMAL=settings.solver == "ipot",
            UNBALANCED=settings.solver == "unbalanced",
            WANTS_VALUE=settings.value != "sharp",
        )

    def differentiate(
        self, vectors: tuple[Tensor, Tensor], scale_B: Tensor, wanted: tuple[bool, bool]
    ) -> list[Tensor]:
        gradients = [
            torch.zeros_like(tensor if needed else tensor[:1, :1], dtype=tensor.dtype)
            for tensor, needed in zip(vectors, wanted, strict=True)
        ]
        self.launch(
            kernels.differentiate_kernel,
            vectors[0].contiguous(),
            vectors[1].contiguous(),
            self.numbers if self.plan_cost is None else self.plan_cost.float().contiguous(),
            self.order_BN,
            self.order_BM,
            self.size_B1,
            self.size_B2,
            self.rows_BN,
            self.columns_BM,
            self.step_B,
            scale_B.float().contiguous(),
            gradients[0],
            gradients[1],
            WANTS_STUDENT=wanted[0],
            WANTS_TEACHER=wanted[1],
        )
        return gradients


class _FusedTransport(torch.autograd.Function):
    """<C, P> of each pair, with gradient P with respect to C, carried on to the vectors."""

    @staticmethod
    def forward(ctx: Any, student_BND: Tensor, teacher_BMD: Tensor, batch: _Batch) -> Tensor:
        batch.solve(student_BND, teacher_BMD)
        ctx.save_for_backward(student_BND, teacher_BMD)
        ctx.batch = batch
        return batch.numbers[:, kernels.COST.value].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_B: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        gradients = ctx.batch.differentiate(ctx.saved_tensors, scale_B, wanted)
        to_student, to_teacher = (
            gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True)
        )
        return to_student, to_teacher, None
