"""The nearest rotation of a 3 x 3 matrix, in products and square roots only: no backend has an SVD.

Every entry of a rotation is a quadratic form of its unit quaternion q: R_ij = q^T B_ij q. So the rotation nearest to M,
which maximises the sum of R_ij M_ij, has as q the first eigenvector of sum(M_ij B_ij) (Horn, 1987). That is the
rotation which an SVD gives once the sign of its determinant is corrected. Squaring a matrix with a positive first
eigenvalue again and again leaves q q^T, of which R is linear; no sign has to be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The eigenvalues of the form of a matrix with unit rows lie in [-3, 3].
_BOUND = 3.0
_ROUNDS = 8  # of two squarings each: the gap between the first two eigenvalues counts 65536-fold
REAL = 3  # index of the real part: quaternions are xyzw


class Rotations(nn.Module):
    """Matrices with nine free numbers to rotations, and rotations to quaternions."""

    forms: Tensor
    unit: Tensor
    ones: Tensor

    def __init__(self) -> None:
        super().__init__()
        # On the CPU for the reason that tables_at gives.
        self.register_buffer("forms", _forms().view(9, 16), persistent=False)
        self.register_buffer("unit", torch.eye(4, device="cpu").view(16, 1), persistent=False)
        self.register_buffer("ones", torch.ones(4, 1, device="cpu"), persistent=False)

    def nearest(self, matrices: Tensor) -> Tensor:
        """(N, 9), the rows of 3 x 3 matrices, to the rotation (N, 3, 3) nearest to each matrix with rows of length 1.

        Two eigenvalues have to differ by a thousandth: nearer ones come of a matrix that says no rotation.
        """
        rows = matrices.view(-1, 3, 3)
        rows = rows / ((rows * rows) @ self.ones[:3]).sqrt()
        # Positive, and of trace 1.
        outer = (rows.view(-1, 9) @ self.forms + _BOUND * self.unit.view(1, 16)) / (4 * _BOUND)
        for _ in range(_ROUNDS):
            square = outer.view(-1, 4, 4)
            square = square @ square
            outer = (square @ square).view(-1, 16)
            outer = outer / (outer @ self.unit)
        return (outer @ self.forms.transpose(0, 1)).view(-1, 3, 3)

    def quaternions(self, rotations: Tensor) -> Tensor:
        """Rotations (N, 3, 3) to unit quaternions (N, 4), xyzw, the real part not negative."""
        # The form of a rotation has the eigenvalues 3, -1, -1, -1.
        outer = ((rotations.view(-1, 9) @ self.forms + self.unit.view(1, 16)) / 4).view(-1, 4, 4)
        # Row i is q_i q. Rows are added with the sign that makes the sum longer, so that none has to be the longest.
        total = outer[:, REAL]
        for index in range(REAL):
            sign = total[:, index : index + 1].sign()
            total = total + (sign + 1 - sign * sign) * outer[:, index]
        return total / ((total * total) @ self.ones).sqrt()


def _forms() -> Tensor:
    """(3, 3, 4, 4): the quadratic form of each entry of a rotation in the quaternion xyzw."""
    forms = torch.zeros(3, 3, 4, 4, device="cpu")
    for row in range(3):
        for column in range(3):
            for one, other in ((row, column), (column, row)):
                forms[row, column, one, other] += 1.0
        forms[row, row] += torch.diag(torch.tensor([-1.0, -1.0, -1.0, 1.0], device="cpu"))
        after, last = (row + 1) % 3, (row + 2) % 3
        for one, other, sign in ((after, last, -1.0), (last, after, 1.0)):
            forms[one, other, row, REAL] += sign
            forms[one, other, REAL, row] += sign
    return forms
