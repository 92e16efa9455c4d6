"""Numbers that the reference and all kernels share; csrc/problem.h has the same, and a test compares the two."""

import math

#: Exponentials are taken to base 2: exp(x) = 2^(x LOG2_E).
LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)

#: exp(S_ij - lse_i) of a blocked pair has no upper bound; in the gradient of the policy it saturates here. The
#: published implementation bounds it likewise by adding 1e-6 to the denominator of its softmax.
SATURATION = 1e6
LOG2_SATURATION = math.log2(SATURATION)

#: Stands for the maximum of no scores; finite, so that the difference of two of them is 0 and not NaN.
NO_SCORE = -1e38
