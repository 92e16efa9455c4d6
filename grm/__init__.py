"""GRM: a visual tracker that divides its search tokens (Gao, Zhou, Zhang, CVPR 2023), on top of `grm_kernels`."""
